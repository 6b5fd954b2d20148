"""Files, the Hub, processors and clocks."""
