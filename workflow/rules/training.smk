# From labels to a trained network.


rule weigh:
    input:
        "results/labels/{sample}.json",
    output:
        "results/weights/{sample}.json",
    log:
        "results/logs/weigh/{sample}.log",
    benchmark:
        "results/benchmarks/weigh/{sample}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("weigh"),
        tmpdir=TMPDIR,
    params:
        spec=CONFIG.spec("weigh"),
        code=fingerprint("unetpipe.steps.weigh"),
    shell:
        "exec python -m unetpipe weigh {input:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule augment:
    input:
        image="results/images/{sample}.json",
        labels="results/labels/{sample}.json",
        weights="results/weights/{sample}.json",
    output:
        "results/patches/{sample}.json",
    log:
        "results/logs/augment/{sample}.log",
    benchmark:
        "results/benchmarks/augment/{sample}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("augment"),
        tmpdir=TMPDIR,
    params:
        spec=CONFIG.spec("augment"),
        code=fingerprint("unetpipe.steps.augment"),
    shell:
        "exec python -m unetpipe augment {input.image:q} {input.labels:q} {input.weights:q} --output {output:q}"
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
