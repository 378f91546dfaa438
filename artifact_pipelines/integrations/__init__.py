"""Training frameworks: one small module for each, over one `Run`, imported when it is used."""
