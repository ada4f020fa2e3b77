"""A throw-away SLURM on this machine's loopback: two nodes with two imaginary GPUs each.

    python tests/kit/slurm_cluster.py start FOLDER
    python tests/kit/slurm_cluster.py stop FOLDER

`start` prints the lines that a shell needs: eval "$(...)".

The daemons are real, those of Debian, from slurmctld to the accounting's data base. They listen on
127.0.0.1 alone and write below FOLDER alone. FOLDER must be short: the names of sockets are limited
to 107 characters. Root is not needed, but without it the GPUs are two of the machine's terminals.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
}
"""Program that is started or called -> the Debian package that has it."""

NODES = ("gnode1", "gnode2")
GPUS = 2
ACCOUNT = "lab"
_SYSTEM_TABLES = Path("/usr/share/mysql")


def missing() -> str | None:
    """The command that installs missing programs; None if none is missing."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    lacking = sorted({p for program, p in PROGRAMS.items() if shutil.which(program) is None})
    return f"apt-get install --no-install-recommends {' '.join(lacking)}" if lacking else None


class Cluster:
    """The daemons of one cluster, by the files in their folder."""

    def __init__(self, folder: Path) -> None:
        """Use the cluster in `folder`, whether it runs or not."""
        self.folder = folder.resolve()
        if len(str(self.folder)) > 80:
            raise SystemExit(f"error: {self.folder}: too long a name for the sockets in it")
        self.env = {
            "SLURM_CONF": str(self.folder / "etc/slurm.conf"),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PALIMPSEST_DEVICE": "cpu",  # jobs get GPUs that do not exist
        }

    def start(self) -> None:
        """Start everything and wait until both nodes are idle."""
        for name in ("bin", "etc", "log", "run", "state", "dev", *(f"spool/{n}" for n in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munged requires that everyone can reach its socket
        database = self._write_settings()
        self._munge()
        self._database(database)
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._until("slurmdbd", lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"))
        for add in (
            ["cluster", "fake"],
            ["account", ACCOUNT, "cluster=fake"],
            ["user", getpass.getuser(), f"account={ACCOUNT}", "cluster=fake"],
        ):
            self._succeeds("sacctmgr", "-i", "add", *add)
        self._daemon("slurmctld", "slurmctld", "-D", "-f", self.env["SLURM_CONF"])
        for node in NODES:
            self._daemon(node, "slurmd", "-D", "-N", node, "-f", self.env["SLURM_CONF"])
        self._until("the nodes", lambda: self._idle() == set(NODES))

    def stop(self) -> None:
        """End the jobs, then the daemons, last started first."""
        controller = self.folder / "run/slurmctld.started"
        if controller.exists() and self._succeeds("scancel", "--user", getpass.getuser()):
            with contextlib.suppress(TimeoutError):
                self._until("jobs to end", lambda: not self.call("squeue", "-h"), seconds=80)
        files = sorted(self.folder.glob("run/*.started"), key=lambda file: file.stat().st_mtime_ns)
        for file in reversed(files):
            _end(int(file.read_text()), self.folder)
            file.unlink()

    def call(self, *command: str) -> str:
        """The output of a SLURM command."""
        process = subprocess.run(
            command,
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return process.stdout

    def shell(self) -> str:
        """The lines that a shell needs."""
        return (
            f"export SLURM_CONF={shlex.quote(self.env['SLURM_CONF'])}\n"
            f"export PATH={shlex.quote(str(self.folder / 'bin'))}:$PATH\n"
            "export PALIMPSEST_DEVICE=cpu"
        )

    def _idle(self) -> set[str]:
        try:
            return set(self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())
        except subprocess.SubprocessError:
            return set()  # the controller is not up yet

    def _write_settings(self) -> int:
        ports = _free_ports(3 + len(NODES))
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs=16 RealMemory=64000 Gres=gpu:h100:{GPUS}"
            for node, port in zip(NODES, ports[3:], strict=True)
        )
        values = {"folder": self.folder, "host": host, "user": user, "nodes": nodes}
        values |= {"controller": ports[0], "accounting": ports[1], "database": ports[2]}
        self._write("etc/slurm.conf", _SLURM.format(**values))
        self._write("etc/slurmdbd.conf", _SLURMDBD.format(**values), mode=0o600)
        self._write("etc/cgroup.conf", "CgroupAutomount=no\n")
        gpus = [f"NodeName={n} Name=gpu Type=h100 File={','.join(self._devices(n))}" for n in NODES]
        self._write("etc/gres.conf", "\n".join(["AutoDetect=off", *gpus, ""]))
        # The executor's job step forgets SLURM_CONF before it calls srun.
        srun = shutil.which("srun") or "/usr/bin/srun"
        text = f'#!/bin/sh\nSLURM_CONF={self.env["SLURM_CONF"]} exec {srun} "$@"\n'
        self._write("bin/srun", text, mode=0o755)
        return ports[2]

    def _devices(self, node: str) -> list[str]:
        """A character device per GPU: with other files, SLURM would not pass a job its GPUs."""
        files = [self.folder / f"dev/{node}-gpu{number}" for number in range(GPUS)]
        try:
            for file in files:
                if not file.exists():
                    os.mknod(file, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            return [f"/dev/tty{number}" for number in range(GPUS)]
        return [str(file) for file in files]

    def _munge(self) -> None:
        key, run = self.folder / "etc/munge.key", self.folder / "run"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))
        self._daemon(
            "munged",
            *("munged", "--foreground", f"--key-file={key}", f"--socket={run}/munge.sock"),
            *(f"--pid-file={run}/munged.pid", f"--log-file={self.folder}/log/munged.log"),
            f"--seed-file={run}/munge.seed",
        )
        self._until("munged", lambda: self._succeeds("munge", "-n", "-S", f"{run}/munge.sock"))

    def _database(self, port: int) -> None:
        files = self.folder / "mysql"
        options = ["--no-defaults", f"--datadir={files}", f"--user={getpass.getuser()}"]
        if not (files / "mysql").exists():
            # As mariadb-install-db does it, without that program's package.
            files.mkdir()
            names = ("mysql_system_tables.sql", "mysql_system_tables_data.sql")
            tables = [(_SYSTEM_TABLES / name).read_text() for name in names]
            script = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n"
            subprocess.run(
                ["mariadbd", *options, "--bootstrap", "--enforce-storage-engine="],
                input=script + "\n".join(tables),
                capture_output=True,
                text=True,
                check=True,
            )
        users = "".join(
            f"CREATE USER IF NOT EXISTS 'slurm'@'{host}' IDENTIFIED BY 'slurm';\n"
            f"GRANT ALL ON slurm.* TO 'slurm'@'{host}';\n"
            for host in ("localhost", "127.0.0.1")
        )
        self._write("etc/init.sql", f"CREATE DATABASE IF NOT EXISTS slurm;\n{users}")
        self._daemon(
            "mariadbd",
            *("mariadbd", *options, "--bind-address=127.0.0.1", f"--port={port}"),
            *(
                f"--socket={self.folder}/run/mariadb.sock",
                f"--init-file={self.folder}/etc/init.sql",
            ),
            *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
        )
        self._until("mariadbd", lambda: _listens(port))

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.folder / f"log/{name}.txt", "ab") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / f"run/{name}.started").write_text(str(process.pid))

    def _succeeds(self, *command: str) -> bool:
        try:
            self.call(*command)
        except (subprocess.SubprocessError, OSError):
            return False
        return True

    def _until(self, name: str, sign: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not sign():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds} s for {name}, see {self.folder}/log")
            time.sleep(0.1)

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        file = self.folder / name
        file.touch(mode=mode)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)


_SLURM = """\
ClusterName=fake
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a job that is requeued waits for cred_expire seconds
AuthInfo=socket={folder}/run/munge.sock,cred_expire=10
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
# no control groups: they belong to the machine
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
PlugStackConfig=/dev/null
# more CPUs and memory than the machine has: jobs wait for the GPUs, not for these
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=200000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
ReturnToService=2
# squeue shows ended jobs for this number of seconds
MinJobAge=600
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/run/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
AccountingStorageEnforce=associations
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=60 DefaultTime=10 PriorityTier=2
"""

_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
CommunicationParameters=NoInAddrAny
SlurmUser={user}
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for socket_ in sockets:
            socket_.bind(("127.0.0.1", 0))
        return [socket_.getsockname()[1] for socket_ in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _end(number: int, folder: Path) -> None:
    """End a process, if it is one of the cluster's."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(100):
            if not _alive(number, folder):
                return
            os.kill(number, kind)
            time.sleep(0.1)


def _alive(number: int, folder: Path) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(number, os.WNOHANG)
    try:
        is_ours = f"SLURM_CONF={folder}/".encode() in Path(f"/proc/{number}/environ").read_bytes()
    except OSError:  # no such process; that of a zombie is empty
        return False
    return is_ours


def main(argv: Iterable[str] | None = None) -> None:
    """Parse the command line and run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=("start", "stop"))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(None if argv is None else list(argv))
    if lacking := missing():
        raise SystemExit(f"error: SLURM is not installed: {lacking}")
    cluster = Cluster(args.folder)
    if args.command == "stop":
        cluster.stop()
        return
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    print(cluster.shell())


if __name__ == "__main__":
    sys.exit(main())
