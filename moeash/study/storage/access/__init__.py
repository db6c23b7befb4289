"""Who may use the service: tokens, sessions, roles, and the audit of who did what."""
