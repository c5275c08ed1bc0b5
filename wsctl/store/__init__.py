"""The state database: placements, marks, activity, on SQLite or MySQL. Not responsible for any decision."""
