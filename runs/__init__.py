"""From options to a finished run: options, configuration, folders, descriptions."""
