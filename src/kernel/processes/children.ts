import { execFile, spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { codeOf } from '../system-error.ts';

/** One process of this machine, told apart from a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Opaque, at most 40 characters: boot and clock ticks since boot (Linux), or the start date (elsewhere). */
  readonly startTime: string;
}

/** A running process as the system lists it. */
export interface ListedProcess extends ProcessIdentity {
  readonly parentPid: number;
  readonly groupId: number;
  readonly uid: number;
  /** It has ended, only its parent has not asked yet. */
  readonly zombie: boolean;
}

export interface ChildExit {
  /** Null when a signal ended it. 127: there is no such command, 126: it may not be executed. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface SpawnRecordedOptions {
  /** Program, looked up in `env.PATH` unless it is a path. */
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** The whole environment: nothing is inherited. */
  readonly env: Readonly<Record<string, string>>;
  /** Only root can set these; supplementary groups are dropped then. */
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  /** Standard input, output and error of the command; a number is an open file. Default: ignore, pipe, pipe. */
  readonly stdio?: readonly ['ignore' | 'pipe', 'ignore' | 'pipe' | number, 'ignore' | 'pipe' | number];
  /** Permission bits that new files do not get, default 0o027. */
  readonly umask?: number;
  /** Writes down that the process exists. The command is executed after it has resolved, and never if it rejects. */
  readonly record: (child: ProcessIdentity) => Promise<void>;
}

export interface RecordedChild {
  readonly identity: ProcessIdentity;
  readonly child: ChildProcess;
  /** Resolves when the process has ended; its output may still have unread data. */
  readonly exited: Promise<ChildExit>;
}

/** How an ended process ended: it was not there any more, obeyed SIGTERM, or needed SIGKILL. */
export type EndResult = 'GONE' | 'TERMINATED' | 'KILLED';

const run = promisify(execFile);

// The shell waits on standard input before it becomes the command. When the server dies before it has written the line,
// the shell reads the end of the file and exits: what is not recorded does not run.
const gate =
  'umask "$1"; keep=$2; shift 2; IFS= read -r _ || exit 125; ' +
  'if [ "$keep" = 1 ]; then exec "$@"; fi; exec "$@" </dev/null';

/**
 * Starts a process, in its own session and process group, that does nothing before `record` has resolved.
 * @throws what `record` rejects with, or the system's error (ENOENT of `cwd`, EPERM of `uid`, EAGAIN); nothing runs then
 */
export async function spawnRecorded(options: SpawnRecordedOptions): Promise<RecordedChild> {
  const [stdin, stdout, stderr] = options.stdio ?? ['ignore', 'pipe', 'pipe'];
  const umask = (options.umask ?? 0o027).toString(8);
  inherited ??= openForChildren().catch((error: unknown) => {
    // Asked again by the next one: too many open files may be fewer then.
    inherited = undefined;
    throw error;
  });
  const child = spawnWithout(
    await inherited,
    ['-c', gate, 'gate', umask, stdin === 'pipe' ? '1' : '0', options.command, ...options.args],
    {
      cwd: options.cwd,
      env: { ...options.env },
      detached: true,
      ...(options.uid === undefined ? {} : { uid: options.uid }),
      ...(options.gid === undefined ? {} : { gid: options.gid }),
    },
    ['pipe', stdout, stderr],
  );
  const exited = new Promise<ChildExit>((resolve) => {
    child.once('exit', (exitCode, signal) => resolve({ exitCode, signal }));
  });
  await once(child, 'spawn');
  // A command that does not read, or has ended, breaks the pipe; its exit tells the rest.
  child.stdin?.on('error', () => undefined);
  try {
    const identity = await processIdentity(child.pid ?? 0);
    if (!identity) throw new Error('The process ended before it could be recorded.');
    await options.record(identity);
    if (stdin === 'pipe') child.stdin?.write('\n');
    else child.stdin?.end('\n');
    return { identity, child, exited };
  } catch (error) {
    child.stdin?.destroy();
    child.stdout?.destroy();
    child.stderr?.destroy();
    await exited;
    throw error;
  }
}

/**
 * Starts a shell with the files that are given and no others: what this process was itself started with beside the
 * first three (by a shell, or a service manager) is open in every child, and becomes /dev/null in this one. Node opens
 * nothing in that way.
 */
function spawnWithout(
  inherited: readonly number[],
  args: readonly string[],
  options: SpawnOptions,
  files: readonly ChildFile[],
): ChildProcess {
  const stdio: ChildFile[] = [...files];
  const others = inherited.filter((fd) => fd >= files.length);
  if (others.length === 0) return spawn('/bin/sh', args, { ...options, stdio });
  const nothing = openSync('/dev/null', 'r+');
  try {
    // 'ignore' leaves a number of 3 and above as it is.
    while (stdio.length <= Math.max(...others)) stdio.push('ignore');
    for (const fd of others) stdio[fd] = nothing;
    return spawn('/bin/sh', args, { ...options, stdio });
  } finally {
    closeSync(nothing);
  }
}

type ChildFile = 'pipe' | 'ignore' | number;

/** Looked at once: what is inherited was open when this process began, and nothing is opened in that way later. */
let inherited: Promise<readonly number[]> | undefined;

/** Open files of this process that a program which it executes has, too. None where the system does not tell. */
async function openForChildren(): Promise<number[]> {
  if (process.platform !== 'linux') return [];
  const found = await Promise.all(
    (await readdir('/proc/self/fdinfo')).map(async (fd) => {
      try {
        const flags = /^flags:\s*(\d+)/m.exec(await readFile(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
        return flags !== undefined && (Number.parseInt(flags, 8) & closeOnExec) === 0 ? [Number(fd)] : [];
      } catch (error) {
        if (codeOf(error) === 'ENOENT') return []; // closed in the meantime
        throw error;
      }
    }),
  );
  return found.flat();
}

/** O_CLOEXEC of Linux, on all processors that Node runs on. */
const closeOnExec = 0o2000000;

/** The process that has this pid now; null: there is none. */
export async function processIdentity(pid: number): Promise<ProcessIdentity | null> {
  if (pid <= 0) return null;
  if (process.platform !== 'linux') return (await listWithPs(['-p', String(pid)]))[0] ?? null;
  const listed = await readProcess(pid);
  return listed && { pid: listed.pid, startTime: listed.startTime };
}

/** Whether that very process still runs. A zombie does not. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  const listed =
    process.platform === 'linux'
      ? await readProcess(identity.pid)
      : ((await listWithPs(['-p', String(identity.pid)]))[0] ?? null);
  return listed !== null && listed.startTime === identity.startTime && !listed.zombie;
}

/** Every process that this process may see. */
export async function listProcesses(): Promise<ListedProcess[]> {
  if (process.platform !== 'linux') return await listWithPs(['-ax']);
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const listed = await Promise.all(pids.map((pid) => readProcess(Number(pid))));
  return listed.filter((one) => one !== null);
}

/**
 * Ends a process of `spawnRecorded` and all that it started: SIGTERM to its group, SIGKILL after `graceMs` to what is
 * left. A pid that belongs to another process by now is left alone. When the process itself is gone, what is left of
 * its group is ended: the system does not give out a pid while a group has its number.
 * What has left the group and has no living ancestor in it cannot be found (a double fork with setsid).
 * @throws Error when something survives SIGKILL for five seconds
 */
export async function endProcess(identity: ProcessIdentity, { graceMs }: { graceMs: number }): Promise<EndResult> {
  const members = await findTree(identity);
  if (members.length === 0) return 'GONE';
  signalTree(identity, members, 'SIGTERM');
  if (await treeGone(identity, members, graceMs)) return 'TERMINATED';
  // It may have started more in the meantime.
  const left = await findTree(identity);
  signalTree(identity, left, 'SIGKILL');
  const stragglers = await Promise.all(members.map(async (one) => ((await isAlive(one)) ? one : null)));
  for (const one of stragglers) if (one && !left.some((other) => other.pid === one.pid)) signal(one.pid, 'SIGKILL');
  if (await treeGone(identity, [...members, ...left], 5_000)) return 'KILLED';
  throw new Error(`Process ${identity.pid} does not end after SIGKILL.`);
}

/** The living members of the identity's group and the descendants of those. */
const findTree = async (identity: ProcessIdentity): Promise<ListedProcess[]> =>
  treeIn(await listProcesses(), identity, await currentBoot());

/** The same of several, in one look at the system's processes. */
export async function findTrees(identities: readonly ProcessIdentity[]): Promise<ListedProcess[][]> {
  const [all, now] = [await listProcesses(), await currentBoot()];
  return identities.map((one) => treeIn(all, one, now));
}

function treeIn(all: readonly ListedProcess[], identity: ProcessIdentity, now: string): ListedProcess[] {
  const leader = all.find((one) => one.pid === identity.pid);
  if (leader && leader.startTime !== identity.startTime) return [];
  if (!leader && bootOf(identity) !== now) return [];
  const tree = new Map(
    all.filter((one) => one.groupId === identity.pid || one.pid === identity.pid).map((one) => [one.pid, one]),
  );
  for (let grown = true; grown;) {
    const children = all.filter((one) => tree.has(one.parentPid) && !tree.has(one.pid));
    for (const child of children) tree.set(child.pid, child);
    grown = children.length > 0;
  }
  return [...tree.values()].filter((one) => !one.zombie);
}

function signalTree(identity: ProcessIdentity, members: readonly ListedProcess[], name: 'SIGTERM' | 'SIGKILL'): void {
  if (members.some((one) => one.groupId === identity.pid)) signal(-identity.pid, name);
  for (const one of members) if (one.groupId !== identity.pid) signal(one.pid, name);
}

function signal(pid: number, name: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // It ended by itself between the look and the signal.
    if (codeOf(error) !== 'ESRCH') throw error;
  }
}

async function treeGone(
  identity: ProcessIdentity,
  members: readonly ListedProcess[],
  withinMs: number,
): Promise<boolean> {
  // Nothing tells of the end of a process that is not one's child: the condition is looked at.
  const deadline = performance.now() + withinMs;
  for (let waitMs = 5; ; waitMs = Math.min(waitMs * 2, 100)) {
    const alive = await Promise.all(members.map((one) => isAlive(one)));
    if (!alive.includes(true) && (await findTree(identity)).length === 0) return true;
    if (performance.now() >= deadline) return false;
    await delay(waitMs);
  }
}

let boot: Promise<string> | undefined;

/** Which start of the machine this is: ticks since boot mean nothing after the next one. */
function currentBoot(): Promise<string> {
  if (process.platform !== 'linux') return Promise.resolve('');
  boot ??= readFile('/proc/sys/kernel/random/boot_id', 'utf8').then((id) => id.slice(0, 13));
  return boot;
}

function bootOf(identity: ProcessIdentity): string {
  return process.platform === 'linux' ? (identity.startTime.split(':')[0] ?? '') : '';
}

/** @see https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
async function readProcess(pid: number): Promise<ListedProcess | null> {
  try {
    const [text, status, bootId] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'utf8'),
      readFile(`/proc/${pid}/status`, 'utf8'), // the folder's owner is root for a process that is not dumpable
      currentBoot(),
    ]);
    // The second field is the name in parentheses and may itself contain any character.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const [state = '', parentPid, groupId] = fields;
    return {
      pid,
      startTime: `${bootId}:${fields[19]}`, // field 22 of the manual
      parentPid: Number(parentPid),
      groupId: Number(groupId),
      uid: Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]),
      zombie: state === 'Z' || state === 'X',
    };
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ESRCH') return null;
    throw error;
  }
}

async function listWithPs(which: readonly string[]): Promise<ListedProcess[]> {
  const columns = ['-o', 'pid=', '-o', 'ppid=', '-o', 'pgid=', '-o', 'uid=', '-o', 'stat=', '-o', 'lstart='];
  let stdout: string;
  try {
    ({ stdout } = await run('/bin/ps', [...which, ...columns], { env: { LC_ALL: 'C', TZ: 'UTC' } }));
  } catch (error) {
    // ps exits 1 without a word when no process matches.
    if (codeOf(error) === 1) return [];
    throw error;
  }
  return stdout
    .split('\n')
    .filter((line) => line.trim())
    .map((line) => {
      const [pid, parentPid, groupId, uid, state = '', ...started] = line.trim().split(/\s+/);
      return {
        pid: Number(pid),
        startTime: started.join(' '),
        parentPid: Number(parentPid),
        groupId: Number(groupId),
        uid: Number(uid),
        zombie: state.startsWith('Z'),
      };
    });
}
