"""The open web: whom we may connect to, when, and how long and how much we listen."""
