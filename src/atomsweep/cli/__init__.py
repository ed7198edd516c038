"""What a person types: one module a command. It parses, calls the room that knows, and prints.

Nothing is decided here, nothing heavy imported before a command needs it, and no room imports this.
"""
