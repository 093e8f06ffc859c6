# From an image and a network to classes and instances.


rule predict:
    input:
        image="results/images/{sample}.json",
        models=lambda wildcards: expand("results/models/{model}.json", model=CONFIG.members(wildcards.model)),
        region=lambda wildcards: CONFIG.samples[wildcards.sample].region or [],
    output:
        "results/probabilities/{model}/{sample}.json",
    log:
        "results/logs/predict/{model}/{sample}.log",
    benchmark:
        "results/benchmarks/predict/{model}/{sample}.tsv"
    conda:
        "../../environment.yml"
    threads: 4
    resources:
        **REQUESTS("predict"),
        tmpdir=TMPDIR,
        gpu=1,
    params:
        spec=CONFIG.spec("predict"),
        code=lambda wildcards: fingerprint("unetpipe.steps.predict", *CONFIG.network_modules(wildcards.model)),
        region=lambda wildcards, input: expand("--region={path}", path=input.region),
        gpus=lambda wildcards, resources: gpus_of(resources),
        # Functions of the input are not compared with those of the last run: other workers give the same result.
        cluster=lambda wildcards, input: canonical_json(CONFIG.cluster),
    shell:
        "exec python -m unetpipe predict {input.image:q} {input.models:q} {params.region:q} --output {output:q}"
        " --threads {threads} --gpus {params.gpus} --cluster {params.cluster:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


if CONFIG.sections["segment"].tune:

    rule tune:
        input:
            lambda wildcards: expand(
                "results/probabilities/{model}/{sample}.json",
                model=wildcards.model,
                sample=CONFIG.own("val", wildcards.model),
            ),
            lambda wildcards: expand("results/labels/{sample}.json", sample=CONFIG.own("val", wildcards.model)),
        output:
            "results/thresholds/{model}.json",
        log:
            "results/logs/tune/{model}.log",
        benchmark:
            "results/benchmarks/tune/{model}.tsv"
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("tune"),
            tmpdir=TMPDIR,
        params:
            spec=CONFIG.spec("tune"),
            code=fingerprint("unetpipe.steps.tune"),
        shell:
            "exec python -m unetpipe tune {input:q} --output {output:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


for batch in BATCHES:

    rule:
        name:
            batch.rule("segment")
        input:
            probabilities=batch.files("results/probabilities/{model}/{sample}.json"),
            image=batch.files("results/images/{sample}.json"),
            thresholds=batch.files("results/thresholds/{model}.json") if CONFIG.sections["segment"].tune else [],
        output:
            batch.files("results/segmentations/{model}/{sample}.json"),
        log:
            batch.files("results/logs/segment/{model}/{sample}.log"),
        benchmark:
            batch.file("results/benchmarks/segment/{model}/{sample}.tsv")
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("segment", batch),
            tmpdir=TMPDIR,
        params:
            unetpipe=UNETPIPE,
            spec=CONFIG.spec("segment"),
            code=fingerprint("unetpipe.steps.segment"),
        shell:
            "exec {params.unetpipe} segment {input.probabilities:q} {input.image:q} {input.thresholds:q}"
            " --output {output:q} --spec {params.spec:q} --code {params.code:q} --log {log:q}"
