"""The reranking server that the field's tutorials show, to measure ourselves against: one async def calling predict.

Run: python bench/reference_server.py MODEL PORT
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

model = CrossEncoder(sys.argv[1], device="cpu")
app = FastAPI()


class Rerank(BaseModel):
    """A query and candidate texts."""

    query: str
    documents: list[str]


@app.post("/rerank")
async def rerank(asked: Rerank) -> dict[str, object]:
    """Documents in order of score."""
    scores = model.predict([(asked.query, document) for document in asked.documents], show_progress_bar=False)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return {"results": [{"index": index, "relevance_score": float(scores[index])} for index in order]}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
