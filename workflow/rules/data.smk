# From source files to checked images and labels.

if CONFIG.simulated:

    rule simulate:
        output:
            image=f"{CONFIG.simulated}/images/{{sample}}.tif",
            annotation=f"{CONFIG.simulated}/labels/{{sample}}.tif",
        log:
            "results/logs/simulate/{sample}.log",
        benchmark:
            "results/benchmarks/simulate/{sample}.tsv"
        conda:
            "../../environment.yml"
        params:
            spec=lambda wildcards: CONFIG.spec("simulate", wildcards.sample),
            code=fingerprint("unetpipe.steps.simulate"),
        shell:
            "exec python -m unetpipe simulate {output.image:q} --annotation {output.annotation:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule ingest:
    input:
        lambda wildcards: CONFIG.samples[wildcards.sample].image,
    output:
        "results/images/{sample}.json",
    log:
        "results/logs/ingest/{sample}.log",
    benchmark:
        "results/benchmarks/ingest/{sample}.tsv"
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: CONFIG.spec("ingest", wildcards.sample),
        code=fingerprint("unetpipe.steps.ingest"),
    shell:
        "exec python -m unetpipe ingest {input:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule annotate:
    input:
        annotation=lambda wildcards: CONFIG.samples[wildcards.sample].annotation,
        image="results/images/{sample}.json",
    output:
        "results/labels/{sample}.json",
    log:
        "results/logs/annotate/{sample}.log",
    benchmark:
        "results/benchmarks/annotate/{sample}.tsv"
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: CONFIG.spec("annotate", wildcards.sample),
        code=fingerprint("unetpipe.steps.annotate"),
    shell:
        "exec python -m unetpipe annotate {input.annotation:q} {input.image:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


# What has this input waits for the doctor, and then has it no more: so nothing is run again whenever the doctor is. (An
# input that is only `ancient` would hide changed settings of all that follows, snakemake#4166.) It stands wherever samples
# and models meet, for behind the doctor Snakemake looks again at what must run.
SEEN_BY_DOCTOR = ancient(lambda wildcards: [checkpoints.doctor.get()][:0])


checkpoint doctor:
    input:
        expand("results/images/{sample}.json", sample=sorted(CONFIG.samples)),
        expand("results/labels/{sample}.json", sample=sorted(CONFIG.annotated)),
    output:
        "results/doctor.json",
    log:
        "results/logs/doctor.log",
    benchmark:
        "results/benchmarks/doctor.tsv"
    priority: 1
    conda:
        "../../environment.yml"
    params:
        spec=CONFIG.spec("doctor"),
        code=fingerprint("unetpipe.steps.doctor"),
    shell:
        "exec python -m unetpipe doctor {input:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"
