"""The service: studies listed, launched, watched and exported over HTTP.

Neither torch nor Ray nor pymoo is loaded here. What is known comes from storage, and what must
happen is started in a process of its own, as a person would start it in a terminal.
"""
