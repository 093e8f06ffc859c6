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
        **requests(CONFIG, "weigh"),
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
        **requests(CONFIG, "augment"),
        tmpdir=TMPDIR,
    params:
        spec=CONFIG.spec("augment"),
        code=fingerprint("unetpipe.steps.augment"),
    shell:
        "exec python -m unetpipe augment {input.image:q} {input.labels:q} {input.weights:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule train:
    input:
        patches=lambda wildcards: expand("results/patches/{sample}.json", sample=CONFIG.seen(wildcards.model)),
        validation=expand("results/{kind}/{sample}.json", kind=["images", "labels"], sample=CONFIG.by_split["val"]),
        # Read by nobody: no training begins before the doctor has found nothing against it.
        doctor="results/doctor/training.json",
    output:
        "results/models/{model}.json",
    log:
        "results/logs/train/{model}.log",
    benchmark:
        "results/benchmarks/train/{model}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        **requests(CONFIG, "train"),
        gpu=1,
    params:
        spec=lambda wildcards: CONFIG.spec("train", wildcards.model),
        code=lambda wildcards: fingerprint("unetpipe.steps.train", *CONFIG.network_modules(wildcards.model)),
        manifests=lambda wildcards, input: kept_text([*input.patches, *input.validation]),
    shell:
        "exec python -m unetpipe train @{params.manifests:q} --output {output:q}"
        " --threads {threads} --gpus {resources.gpu}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"
