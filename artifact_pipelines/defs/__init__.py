"""The platform's own assets, schedules and sensors, by topic."""
