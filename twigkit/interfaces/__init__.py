"""The one door for extensions: what plug-ins implement, and what they are handed."""
