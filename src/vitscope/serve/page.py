"""The page of the server."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>vitscope</title>
<h1>vitscope</h1>
<p>Send pictures to <code>POST /api/explain</code>; <a href="/api/openapi.json">/api/openapi.json</a> says how.</p>
</html>
"""
"""A few lines about the API."""
