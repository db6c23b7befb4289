"""What is below the rows: SQLite and PostgreSQL, transactions, and who may write."""
