import { execFile } from 'node:child_process';
import { chmod, chown, lstat, mkdir, open, readdir, rm, rmdir, statfs } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { promisify } from 'node:util';
import {
  endProcess,
  listProcesses,
  spawnRecorded,
  type EndResult,
  type RecordedChild,
} from '#kernel/processes/children.ts';
import {
  BuildFailed,
  EnvironmentRefused,
  NoFreeUser,
  userCount,
  validateEnvironment,
  type Environment,
  type ProcessDriver,
  type ProcessDriverLimits,
  type ProcessDriverOptions,
  type RecordChild,
} from './contract.ts';
import { readLines } from './lines.ts';
import { followLog, rotateLogs, tailLog } from './logs.ts';
import { createPortFinder, listensAlone, type PortRange } from './ports.ts';
import { absent, findProgram, reachableNode } from './programs.ts';
import { detectProject } from './projects.ts';
import { probe } from './probe.ts';
import { codeOf } from '#kernel/system-error.ts';

const defaultUserBase = 61_184;
const defaultPorts: PortRange = { from: 20_000, to: 26_999 };
const buildGraceMs = 2_000;
/** How long it may take to measure the folder of one application, milliseconds. */
const measureMs = 60_000;
const execute = promisify(execFile);
const releaseName = /^[0-9a-zA-Z-]{1,64}\.\d{1,9}$/;
const applicationName = /^[0-9a-zA-Z-]{1,64}$/;

/**
 * The process driver of one host: releases are folders, builds and instances are processes of the application's user.
 *
 * Layout: `applications/<applicationId>/` (the server's, only the application's user may pass through) with `<name>/` the release,
 * `<name>.home/` its HOME and TMPDIR, `<name>.log` and `.log.1` its output, `cache/` npm's cache. The server itself
 * makes and removes nothing inside a folder of the application's user: that user could put a link in its way.
 * @throws Error when users cannot be switched or cannot reach `hostDir`
 */
export async function createProcessDriver(options: ProcessDriverOptions): Promise<ProcessDriver> {
  const { hostDir, pathDirs, log } = options;
  const isRoot = process.getuid?.() === 0;
  const isolation = options.isolation ?? (isRoot ? 'user' : 'none');
  const userBase = options.userBase ?? defaultUserBase;
  if (isolation === 'user' && !isRoot) throw new Error('Isolation by user needs a server that runs as root.');
  if (!Number.isInteger(userBase) || userBase < 1_000) throw new Error('userBase must be a whole number from 1000 on.');
  const applications = join(hostDir, 'applications');
  await mkdir(applications, { recursive: true });
  if (isolation === 'user') await Promise.all([hostDir, applications].map((path) => chmod(path, 0o711)));

  const search = [...pathDirs, '/usr/bin', '/bin'];
  const [setpriv, prlimit] = await Promise.all([findProgram('setpriv', search), findProgram('prlimit', search)]);
  const nodeBinary = isolation === 'user' ? await reachableNode(options, userBase) : options.nodeBinary;
  const searchPath = [...new Set([dirname(nodeBinary), ...pathDirs])].join(':');
  const findPort = options.findPort ?? createPortFinder(options.instancePorts ?? defaultPorts);
  const wrapper = wrapperOf(setpriv, prlimit);

  const driver: ProcessDriver = {
    limits: describeLimits(),

    userOf,

    async prepare({ applicationId, name, userSlot }) {
      if (!applicationName.test(applicationId)) throw new Error(`${applicationId} is not an application's id.`);
      if (!releaseName.test(name)) throw new Error(`${name} is not the name of a release.`);
      const folder = join(applications, applicationId);
      const path = join(folder, name);
      await mkdir(folder, { recursive: true });
      const user = userOf(userSlot);
      if (user) {
        // Its own user may pass through and nobody else, whatever rights it gives to the folders below.
        await chown(folder, process.getuid?.() ?? 0, user.gid);
        await chmod(folder, 0o710);
      }
      await driver.remove(path);
      const cache = join(folder, 'cache');
      const home = `${path}.home`;
      const made = await mkdir(cache, { recursive: true, mode: 0o700 });
      await mkdir(join(home, 'tmp'), { recursive: true, mode: 0o700 });
      await mkdir(path, { mode: 0o700 });
      // From the inside out: what has been given away is not touched again.
      const own = [join(home, 'tmp'), home, ...(made === undefined ? [] : [cache]), path];
      if (user) for (const one of own) await chown(one, user.uid, user.gid);
      return { path };
    },

    async detectProject(path) {
      return await detectProject(checkPath(path));
    },

    async build({ path, command, environment, userSlot, signal, timeoutMs, onOutput, record }) {
      checkPath(path);
      signal.throwIfAborted();
      const late = AbortSignal.timeout(timeoutMs);
      const stop = AbortSignal.any([signal, late]);
      const started = await launch({
        path,
        command,
        environment: { ...options.buildEnvironment, ...environment },
        userSlot,
        stdio: ['ignore', 'pipe', 'pipe'],
        record,
      });
      const { child, exited, identity } = started;
      let failed: unknown;
      const fail = (error: unknown): void => {
        failed ??= error;
        child.kill('SIGKILL');
      };
      const reading = [readLines(started, 'STDOUT', onOutput, fail), readLines(started, 'STDERR', onOutput, fail)];
      let ending: Promise<EndResult> | undefined;
      const end = (): void => {
        ending ??= endProcess(identity, { graceMs: buildGraceMs });
        ending.catch(fail);
      };
      if (stop.aborted) end();
      else stop.addEventListener('abort', end, { once: true });
      try {
        const { exitCode, signal: endedBy } = await exited;
        // A build leaves nothing running, and the pipes close only when nobody holds them.
        await (ending ?? endProcess(identity, { graceMs: buildGraceMs }));
        await Promise.all(reading);
        if (ending) await ending;
        signal.throwIfAborted();
        if (failed !== undefined) throw failed;
        if (late.aborted) throw new BuildFailed(exitCode, endedBy, true);
        if (exitCode !== 0) throw new BuildFailed(exitCode, endedBy, false);
      } finally {
        stop.removeEventListener('abort', end);
      }
    },

    async start({ path, startCommand, environment, userSlot, memoryMb, record }) {
      checkPath(path);
      const port = await findPort();
      await using output = await open(`${path}.log`, 'a', 0o600);
      const { size: logFrom } = await output.stat();
      const user = userOf(userSlot);
      // Its own, so that it can open /dev/stdout; the folder is not, so it cannot put another file in its place.
      if (user) await output.chown(user.uid, user.gid);
      const { identity, child } = await launch({
        path,
        command: startCommand,
        environment: { ...environment, PORT: String(port), HOST: '127.0.0.1' },
        userSlot,
        memoryMb: memoryMb ?? options.limits.memoryMb,
        stdio: ['ignore', output.fd, output.fd],
        record,
      });
      child.unref();
      return { ...identity, port, uid: user?.uid ?? null, logFrom };
    },

    async probe({ port, path, timeoutMs, signal, userSlot }) {
      return await probe({ port, path, timeoutMs, signal }, async () =>
        userSlot === undefined ? null : await strangerOn(port, userSlot),
      );
    },

    async tail(path, lines) {
      return await tailLog(`${checkPath(path)}.log`, lines);
    },

    follow(path, signal, fromByte = 0) {
      return followLog(`${checkPath(path)}.log`, signal, fromByte);
    },

    async stop(identity, graceMs) {
      return await endProcess(identity, { graceMs });
    },

    async remove(path) {
      checkPath(path);
      await removeTree(path);
      await removeTree(`${path}.home`);
      await Promise.all([`${path}.log`, `${path}.log.1`].map((file) => rm(file, { force: true })));
    },

    async forget({ applicationId, userSlot }) {
      if (!applicationName.test(applicationId)) throw new Error(`${applicationId} is not an application's id.`);
      await endUser(userSlot);
      const folder = join(applications, applicationId);
      const names = await readdir(folder).catch((error: unknown) => absent(error) ?? []);
      for (const name of names) {
        const path = join(folder, name);
        if ((await lstat(path)).isDirectory()) await removeTree(path);
        else await rm(path, { force: true });
      }
      await rm(folder, { recursive: true, force: true });
    },

    endUser,

    async listReleases() {
      const found: { path: string; name: string }[] = [];
      for (const applicationId of await readdir(applications)) {
        if (!applicationName.test(applicationId)) continue;
        for (const name of await readdir(join(applications, applicationId)))
          if (releaseName.test(name)) found.push({ path: join(applications, applicationId, name), name });
      }
      return found;
    },

    async sizes(signal) {
      const found = new Map<string, number>();
      // One at a time: it is not urgent, and the disk is also theirs.
      for (const applicationId of await readdir(applications)) {
        if (!applicationName.test(applicationId)) continue;
        const bytes = await sizeOf(join(applications, applicationId), signal);
        if (bytes !== null) found.set(applicationId, bytes);
      }
      return found;
    },

    async free() {
      const { bavail, bsize } = await statfs(applications);
      return bavail * bsize;
    },

    async listProcesses() {
      if (isolation === 'none') return [];
      return (await listProcesses())
        .filter((one) => one.uid >= userBase && one.uid < userBase + userCount && !one.zombie)
        .map((one) => ({ ...one, userOffset: one.uid - userBase }));
    },

    async rotateLogs() {
      return await rotateLogs(hostDir);
    },
  };
  log.info({ ...driver.limits, hostDir }, 'Process driver');
  if (isolation === 'none') log.warn("Applications run as the server's own user and can read its secrets");
  return driver;

  function userOf(userSlot: number): { uid: number; gid: number } | undefined {
    if (!Number.isSafeInteger(userSlot) || userSlot < 0) throw new Error(`${userSlot} is not a user slot.`);
    if (isolation === 'none') return undefined;
    // Never the user of another application: with all of them given away, nothing is started rather than shared.
    if (userSlot >= userCount) throw new NoFreeUser();
    const id = userBase + userSlot;
    return { uid: id, gid: id };
  }

  /** The path itself, when it is a release folder of this host. */
  function checkPath(path: string): string {
    const [applicationId = '', name = '', ...more] = relative(applications, resolve(path)).split(sep);
    if (path !== resolve(path) || !applicationName.test(applicationId) || !releaseName.test(name) || more.length > 0) {
      throw new Error(`${path} is not a release folder of this host.`);
    }
    return path;
  }

  async function launch(what: {
    path: string;
    command: string;
    environment: Environment;
    userSlot: number;
    memoryMb?: number;
    stdio: readonly ['ignore', 'pipe' | number, 'pipe' | number];
    record: RecordChild;
  }): Promise<RecordedChild> {
    const problem = validateEnvironment(what.environment);
    if (problem) throw new EnvironmentRefused(problem);
    const user = userOf(what.userSlot);
    const [command, ...args] = [...wrapper, '/bin/sh', '-c', what.command];
    const home = `${what.path}.home`;
    return await spawnRecorded({
      command,
      args,
      cwd: what.path,
      env: {
        PATH: searchPath,
        HOME: home,
        TMPDIR: join(home, 'tmp'),
        LANG: 'C.UTF-8',
        NODE_ENV: 'production',
        NODE_OPTIONS: `--max-old-space-size=${what.memoryMb ?? options.limits.memoryMb}`,
        npm_config_cache: join(dirname(what.path), 'cache'),
        npm_config_update_notifier: 'false',
        npm_config_audit: 'false',
        npm_config_fund: 'false',
        ...what.environment,
      },
      uid: user?.uid,
      gid: user?.gid,
      stdio: what.stdio,
      umask: isolation === 'user' ? 0o027 : 0o077,
      record: what.record,
    });
  }

  /** Programs that each do one thing to themselves and become the next. They are named by path: PATH is the application's. */
  function wrapperOf(setpriv: string | null, prlimit: string | null): string[] {
    const { maxOpenFiles, maxProcesses } = options.limits;
    const limit = prlimit ? [prlimit, `--nofile=${maxOpenFiles}`, '--core=0'] : [];
    // The system counts per user: without one of its own the application would share the server's count.
    if (prlimit && isolation === 'user') limit.push(`--nproc=${maxProcesses}`);
    return [...limit, ...(setpriv ? [setpriv, '--no-new-privs'] : [])];
  }

  function describeLimits(): ProcessDriverLimits {
    const { maxOpenFiles, maxProcesses, memoryMb } = options.limits;
    const applied = [
      `The heap of each Node process is at most ${memoryMb} MiB (NODE_OPTIONS, the application can change it).`,
    ];
    const missing = [
      'Memory outside of the heap, processor time and outgoing connections are not limited; disk is only measured.',
    ];
    if (isolation === 'user')
      applied.push(`Each application has its own user, from ${userBase} to ${userBase + userCount - 1}.`);
    else missing.push("Applications run as the server's user: they can read its files and secrets and signal it.");
    if (prlimit) applied.push(`At most ${maxOpenFiles} open files per process, no core dumps.`);
    else missing.push('Open files are not limited: there is no prlimit on this machine.');
    if (prlimit && isolation === 'user') applied.push(`At most ${maxProcesses} processes and threads per application.`);
    else missing.push('The number of processes is not limited.');
    if (setpriv) applied.push('Applications cannot gain privileges (no_new_privs).');
    else missing.push('Applications may run set-user-id programs: there is no setpriv on this machine.');
    return { isolation, applied, missing };
  }

  async function strangerOn(port: number, userSlot: number): Promise<string | null> {
    const user = userOf(userSlot);
    if (!user || (await listensAlone(port, user.uid)) !== false) return null;
    return 'another user of this machine listens on the port';
  }

  /** What has left its group and has no parent is found by its user alone. */
  async function endUser(userSlot: number): Promise<void> {
    const deadline = performance.now() + 5_000;
    for (;;) {
      const left = (await driver.listProcesses()).filter((one) => one.userOffset === userSlot);
      if (left.length === 0) return;
      if (performance.now() > deadline) throw new Error(`Process ${left[0]?.pid} does not end after SIGKILL.`);
      for (const { pid } of left) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch (error) {
          if (codeOf(error) !== 'ESRCH') throw error;
        }
      }
      await delay(10);
    }
  }

  /** By a process of the folder's own user, so that a link put in the way leads nowhere. */
  async function removeTree(path: string): Promise<void> {
    let owner: { uid: number; gid: number };
    try {
      owner = await lstat(path);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return;
      throw error;
    }
    let problem = await runInside(path, owner, ['find', '.', '-mindepth', '1', '-delete']);
    if (problem !== null) {
      // A build may have made folders that even their owner cannot write (Go's module cache).
      await runInside(path, owner, ['chmod', '-R', 'u+rwX', '.']);
      problem = await runInside(path, owner, ['find', '.', '-mindepth', '1', '-delete']);
    }
    if (problem !== null) throw new Error(`${path} cannot be emptied: ${problem}`);
    await rmdir(path);
  }

  /** Bytes that a folder takes, as its file system counts them; links are not followed. Null: it cannot be told. */
  async function sizeOf(path: string, signal: AbortSignal): Promise<number | null> {
    const limits = { timeout: measureMs, killSignal: 'SIGKILL', signal } as const;
    // Its status is not 0 when a file goes away meanwhile: what it tells counts all the same.
    const said = await execute('du', ['-skx', '.'], {
      cwd: path,
      env: { PATH: searchPath, LC_ALL: 'C' },
      ...limits,
    }).then(
      ({ stdout }) => stdout,
      (error: unknown) => {
        signal.throwIfAborted();
        const { killed, stdout } = error as { killed?: boolean; stdout?: string };
        if (killed) log.warn({ path, measureMs }, 'the disk that an application has was not measured in time');
        return killed ? '' : (stdout ?? '');
      },
    );
    const kib = /^(\d+)\s/.exec(said)?.[1];
    return kib === undefined ? null : Number(kib) * 1024;
  }

  /** Null: it went well; else what it said. */
  async function runInside(
    cwd: string,
    owner: { uid: number; gid: number },
    [command = '', ...args]: readonly string[],
  ): Promise<string | null> {
    const { child, exited } = await spawnRecorded({
      command,
      args,
      cwd,
      env: { PATH: searchPath, LC_ALL: 'C' },
      ...(isRoot ? { uid: owner.uid, gid: owner.gid } : {}),
      stdio: ['ignore', 'ignore', 'pipe'],
      record: () => Promise.resolve(), // it ends by itself and holds nothing
    });
    let said = '';
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      said = (said + chunk).slice(0, 1_000);
    });
    return (await exited).exitCode === 0 ? null : said.trim();
  }
}
