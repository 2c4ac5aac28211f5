"""Writing a prepared dataset: units of work, records, tables, the report, the lock."""
