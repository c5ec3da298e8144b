"""Prints the commands for a sweep on Cloud TPUs, a slice a point; starts nothing. Not run: see the
README.md here.

  python scripts/tpu/commands.py gke --config=experiments/configs/mnist_5k_sweep.py --points=12
  python scripts/tpu/commands.py xpk --config=... --points=12 --tpu_type=v5litepod-16
  python scripts/tpu/commands.py vm --config=... --points=12 --tpu_type=v5litepod-16
"""

import argparse
import shlex

# Slices of one host: one Job, whose pod i runs point i. 75, preempted, does not count; after 1, 2
# (diverged, a mistake) trying again would not help.
JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completions: {points}
  parallelism: {points}
  completionMode: Indexed
  backoffLimitPerIndex: {restarts}
  podFailurePolicy:
    rules:
    - action: Ignore
      onExitCodes: {{operator: In, values: [75]}}
    - action: Ignore
      onPodConditions: [{{type: DisruptionTarget}}]
    - action: FailIndex
      onExitCodes: {{operator: In, values: [1, 2]}}
  template:
{pod}"""

# Slices of many hosts: a JobSet for each point, so that one that fails does not restart others.
JOBSET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}-{point}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: {restarts}
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: point
    replicas: 1
    template:
      spec:
        completions: {hosts}
        parallelism: {hosts}
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {{operator: In, values: [1, 2]}}
        template:
{pod}"""

POD = """\
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 120
  nodeSelector:
    cloud.google.com/gke-tpu-accelerator: {accelerator}
    cloud.google.com/gke-tpu-topology: {topology}
  containers:
  - name: run
    image: {image}
    command: ["bash", "-c", "exec {command}"]
    resources:
      limits:
        google.com/tpu: {chips}
    volumeMounts:
    - name: runs
      mountPath: {mount}
  volumes:
  - name: runs
    persistentVolumeClaim:
      claimName: {claim}
"""


def sweep(args, index, host):
    """What every host of a slice runs; without an index the pod's JOB_COMPLETION_INDEX is it."""
    line = f"python scripts/sweep.py run --config={shlex.quote(args.config)}"
    line += f" --workdir={shlex.quote(args.workdir)} --engine=index"
    line += f" --index={index}" if index is not None else ""
    return line + (f" --host={host}" if args.hosts > 1 else "")


def gke(args):
    """kubectl with one Job for slices of one host, else with a JobSet for each point."""
    values = vars(args) | {"mount": "/" + args.workdir.strip("/").split("/")[0]}
    many = args.hosts > 1
    manifests = []
    for point in range(args.points) if many else [None]:
        pod = POD.format(command=sweep(args, point, "$JOB_COMPLETION_INDEX"), **values)
        pod = "".join(f"{' ' * (10 if many else 4)}{line}\n" for line in pod.splitlines())
        manifests.append((JOBSET if many else JOB).format(point=point, pod=pod, **values))
    return ["kubectl apply -f - <<'END'\n" + "---\n".join(manifests) + "END"]


def xpk(args):
    """A workload of xpk for each point; Kueue starts them as there is room."""
    lines = []
    for point in range(args.points):
        command = shlex.quote(sweep(args, point, "$JOB_COMPLETION_INDEX"))
        lines.append(
            f"xpk workload create --cluster={args.cluster} --workload={args.name}-{point} "
            f"--tpu-type={args.tpu_type} --num-slices=1 --docker-image={args.image} "
            f"--max-restarts={args.restarts} --restart-on-user-code-failure "
            f"--termination-grace-period-seconds=120 --command={command}"
        )
    return lines


def vm(args):
    """A queued resource of gcloud for each point, its program, and its end."""
    lines = []
    for point in range(args.points):
        name = f"{args.name}-{point}"
        place = f"--zone={args.zone} --project={args.project}"
        host = "$(curl -s -H Metadata-Flavor:Google http://metadata.google.internal"
        host += "/computeMetadata/v1/instance/attributes/agent-worker-number)"
        command = shlex.quote(f"cd orthojax && {sweep(args, point, host)}")
        lines += [
            f"gcloud compute tpus queued-resources create {name} --node-id={name} {place} "
            f"--accelerator-type={args.tpu_type} --runtime-version={args.runtime} --spot",
            f"gcloud compute tpus tpu-vm ssh {name} {place} --worker=all --command={command}",
            f"gcloud compute tpus queued-resources delete {name} {place} --force --quiet",
        ]
    return lines


WAYS = {"gke": gke, "xpk": xpk, "vm": vm}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=list(WAYS))
    parser.add_argument("--config", required=True, help="as for scripts/sweep.py")
    parser.add_argument("--points", type=int, required=True, help="see scripts/sweep.py list")
    parser.add_argument("--workdir", default="/runs/sweep", help="on a file system of all hosts")
    parser.add_argument("--name", default="sweep")
    parser.add_argument("--hosts", type=int, default=4, help="of a slice")
    parser.add_argument("--chips", type=int, default=4, help="of a host")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--image", default="REGION-docker.pkg.dev/PROJECT/REPOSITORY/orthojax")
    parser.add_argument("--accelerator", default="tpu-v5-lite-podslice")
    parser.add_argument("--topology", default="4x4")
    parser.add_argument("--claim", default="runs", help="persistent volume claim, ReadWriteMany")
    parser.add_argument("--tpu_type", default="v5litepod-16")
    parser.add_argument("--runtime", default="v2-alpha-tpuv5-lite")
    parser.add_argument("--cluster", default="CLUSTER")
    parser.add_argument("--zone", default="ZONE")
    parser.add_argument("--project", default="PROJECT")
    args = parser.parse_args(argv)
    print("# Not run.")
    for line in WAYS[args.way](args):
        print(line)


if __name__ == "__main__":
    main()
