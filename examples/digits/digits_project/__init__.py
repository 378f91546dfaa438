"""A project that reads handwritten digits, from the data to a promoted model."""
