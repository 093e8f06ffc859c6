# docker build -t unetpipe .  &&  docker run --gpus all -v "$PWD:/work" unetpipe
FROM python:3.11-slim-bookworm
WORKDIR /opt/unetpipe
COPY requirements-cuda.lock pyproject.toml README.md LICENSE ./
COPY unetpipe unetpipe
RUN pip install --no-cache-dir --require-hashes -r requirements-cuda.lock \
    && pip install --no-cache-dir --no-deps --no-build-isolation . \
    && python -m unetpipe.kernels
WORKDIR /work
CMD ["snakemake", "--cores", "8", "--resources", "gpu=1"]
