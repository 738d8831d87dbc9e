"""Images a second: what is measured, and how."""
