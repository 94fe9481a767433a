# The image of launch/Dockerfile with vLLM beside it, for clusters on which launch/serve_judge.sh serves a judge:
#   docker build --file launch/judge.Dockerfile --tag unigrpo-judge:latest .
# hadolint ignore=DL3007
FROM unigrpo:latest
WORKDIR /opt/unigrpo

# vLLM pins many packages, so it has an environment of its own.
COPY requirements-judge.txt ./
RUN python3 -m venv /opt/judge \
    && /opt/judge/bin/pip install --no-cache-dir --requirement requirements-judge.txt
ENV JUDGE_PYTHON=/opt/judge/bin/python
