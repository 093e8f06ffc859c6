# From segmentations to scores and one page.


rule evaluate:
    input:
        segmentation="results/segmentations/{model}/{sample}.json",
        probabilities="results/probabilities/{model}/{sample}.json",
        labels="results/labels/{sample}.json",
    output:
        "results/metrics/{model}/{sample}.json",
    log:
        "results/logs/evaluate/{model}/{sample}.log",
    benchmark:
        "results/benchmarks/evaluate/{model}/{sample}.tsv"
    conda:
        "../../environment.yml"
    params:
        spec=CONFIG.spec("evaluate"),
        code=fingerprint("unetpipe.steps.evaluate"),
    shell:
        "exec python -m unetpipe evaluate {input.segmentation:q} {input.probabilities:q} {input.labels:q}"
        " --output {output:q} --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule report:
    input:
        expand("results/metrics/{model}/{sample}.json", model=CONFIG.models, sample=CONFIG.by_split["test"]),
        expand("results/models/{model}.json", model=CONFIG.models),
        expand("results/segmentations/{model}/{sample}.json", model=CONFIG.models, sample=CONFIG.shown),
        expand("results/images/{sample}.json", sample=[*CONFIG.shown, CONFIG.by_split["train"][0]]),
        expand("results/labels/{sample}.json", sample=CONFIG.by_split["test"]),
        expand("results/weights/{sample}.json", sample=CONFIG.by_split["train"][0]),
    output:
        "results/report.json",
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    params:
        spec=CONFIG.spec("report"),
        code=fingerprint("unetpipe.steps.report"),
    shell:
        "exec python -m unetpipe report {input:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"
