"""The console: what an operator sees. It knows the client, the nouns, the errors and the sanitiser only.

``fluid_tui.app.run_console`` starts it.
"""
