"""The fence: a persisted upper bound of each counter, outside the database."""
