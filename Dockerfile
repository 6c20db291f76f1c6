# A server on CPUs with the models emoji-64 and heart-16k inside. docs/serving.md, "In a container", says how to run it.
# Build: docker build -t maskgen .     (--build-arg PYTHON=3.13 for another Python)
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv
WORKDIR /src
# Packages first: they are a layer of their own, which a change of the code does not build again.
COPY pyproject.toml ./
RUN uv venv /opt/maskgen \
 && uv pip install --python /opt/maskgen --torch-backend cpu --compile-bytecode -r pyproject.toml --extra serve
COPY README.md LICENSE NOTICE ./
COPY maskgen maskgen
COPY configs configs
COPY data data
COPY tokenizers tokenizers
COPY models models
RUN uv pip install --python /opt/maskgen --no-deps --compile-bytecode .

FROM python:${PYTHON}-slim
COPY --from=build /opt/maskgen /opt/maskgen
# Nothing is written but below /tmp, so that the container runs with --read-only --tmpfs /tmp.
ENV PATH=/opt/maskgen/bin:$PATH HOME=/tmp HF_HOME=/tmp/huggingface PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
 CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["maskgen", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "emoji-64", "--model", "heart-16k"]
