"""Pose estimation over HTTP: `app.make_app` creates the application, `server.serve` runs it."""
