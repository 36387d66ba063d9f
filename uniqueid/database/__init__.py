"""The counters in the database: engine, transactions, schema and journal."""
