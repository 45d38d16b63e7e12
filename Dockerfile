# docker build -t prune .
# docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" prune global model.pth --amount 80%
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN PRUNECLI_BUILD_NATIVE=1 pip wheel --no-cache-dir --wheel-dir /wheels /source

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels prunecli && rm -rf /wheels
WORKDIR /work
ENTRYPOINT ["prune"]
