"""Replicas of Ray Serve on asyncio. Ray lives in `deployment` only; gevent is never imported."""
