# From an image and a network to classes and instances.


rule predict:
    input:
        image="results/images/{sample}.json",
        models=lambda wildcards: expand("results/models/{model}.json", model=CONFIG.members(wildcards.model)),
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
        tmpdir=TMPDIR,
        gpu=1,
        mem_mb=lambda wildcards: CONFIG.predict_mb(wildcards.model),
    params:
        spec=CONFIG.spec("predict"),
        code=lambda wildcards: fingerprint("unetpipe.steps.predict", *CONFIG.network_modules(wildcards.model)),
    shell:
        "exec python -m unetpipe predict {input.image:q} {input.models:q} --output {output:q} --threads {threads}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule segment:
    input:
        probabilities="results/probabilities/{model}/{sample}.json",
        image="results/images/{sample}.json",
    output:
        "results/segmentations/{model}/{sample}.json",
    log:
        "results/logs/segment/{model}/{sample}.log",
    benchmark:
        "results/benchmarks/segment/{model}/{sample}.tsv"
    conda:
        "../../environment.yml"
    resources:
        tmpdir=TMPDIR,
    params:
        spec=CONFIG.spec("segment"),
        code=fingerprint("unetpipe.steps.segment"),
    shell:
        "exec python -m unetpipe segment {input.probabilities:q} {input.image:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"
