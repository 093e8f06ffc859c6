# From labels to a trained network.


for batch in BATCHES:

    rule:
        name:
            batch.rule("weigh")
        input:
            batch.files("results/labels/{sample}.json"),
        output:
            batch.files("results/weights/{sample}.json"),
        log:
            batch.files("results/logs/weigh/{sample}.log"),
        benchmark:
            batch.file("results/benchmarks/weigh/{sample}.tsv")
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("weigh", batch),
            tmpdir=TMPDIR,
        params:
            unetpipe=UNETPIPE,
            spec=CONFIG.spec("weigh"),
            code=fingerprint("unetpipe.steps.weigh"),
        shell:
            "exec {params.unetpipe} weigh {input:q} --output {output:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


for batch in BATCHES:

    rule:
        name:
            batch.rule("augment")
        input:
            image=batch.files("results/images/{sample}.json"),
            labels=batch.files("results/labels/{sample}.json"),
            weights=batch.files("results/weights/{sample}.json"),
        output:
            batch.files("results/patches/{sample}.json"),
        log:
            batch.files("results/logs/augment/{sample}.log"),
        benchmark:
            batch.file("results/benchmarks/augment/{sample}.tsv")
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("augment", batch),
            tmpdir=TMPDIR,
        params:
            unetpipe=UNETPIPE,
            spec=CONFIG.spec("augment"),
            code=fingerprint("unetpipe.steps.augment"),
        shell:
            "exec {params.unetpipe} augment {input.image:q} {input.labels:q} {input.weights:q} --output {output:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule train:
    input:
        patches=lambda wildcards: expand("results/{name}.json", name=CONFIG.taught_by(wildcards.model)),
        validation=lambda wildcards: expand(
            "results/{kind}/{sample}.json", kind=["images", "labels"], sample=CONFIG.own("val", wildcards.model)
        ),
        # Read by nobody: no training begins before the doctor has found nothing against it.
        doctor="results/doctor/training.json",
    output:
        "results/models/{model}.json",
    log:
        "results/logs/train/{model}.log",
    benchmark:
        "results/benchmarks/train/{model}.tsv"
    wildcard_constraints:
        model=CONFIG.trained_names,
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        **REQUESTS("train"),
        gpu=1,
    params:
        spec=lambda wildcards: CONFIG.spec("train", wildcards.model),
        code=lambda wildcards: fingerprint("unetpipe.steps.train", *CONFIG.training_modules(wildcards.model)),
        gpus=lambda wildcards, resources: gpus_of(resources),
        manifests=lambda wildcards, input: kept_text([*input.patches, *input.validation]),
    shell:
        "exec python -m unetpipe train @{params.manifests:q} --output {output:q}"
        " --threads {threads} --gpus {params.gpus}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule import_:
    input:
        lambda wildcards: CONFIG.models[wildcards.model].weights,
    output:
        "results/models/{model}.json",
    log:
        "results/logs/import/{model}.log",
    benchmark:
        "results/benchmarks/import/{model}.tsv"
    wildcard_constraints:
        model=CONFIG.imported_names,
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("import"),
    params:
        spec=lambda wildcards: CONFIG.spec("import", wildcards.model),
        code=fingerprint("unetpipe.steps.import_"),
    shell:
        "exec python -m unetpipe import {input:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"
