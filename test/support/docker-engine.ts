import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, cp, mkdir, mkdtemp, open, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { processesNaming } from './embedded.ts';

const run = promisify(execFile);
const maxBuffer = 64 * 1024 * 1024;

/** A Docker engine of this test's own: no network of its own, nothing of it left afterwards. */
export interface DockerEngine {
  /** The command line against this engine; gives its output. @throws with all that it said */
  docker(...args: string[]): Promise<string>;
  /** Makes a base for this repository's Dockerfile, of this machine's files: no image registry can be relied on. */
  makeBase(tag: string): Promise<void>;
  /** Makes a small image of Node, npm and a shell in the same way. */
  makeNode(tag: string): Promise<void>;
  readonly socketPath: string;
  /** Where images and containers are; with a network a file system of its own, which a test can make small. */
  readonly dataDir: string;
  /** Where its containers reach this machine; null: they have no network. */
  readonly address: string | null;
  /** Stops the engine, as a restart of it does. */
  kill(): Promise<void>;
  again(): Promise<void>;
  stop(): Promise<void>;
}

export interface EngineOptions {
  /**
   * With a bridge of its own, so that ports can be published. One at a time on a machine: it changes its packet filter,
   * and takes its rules away again when it stops.
   */
  readonly network?: boolean;
}

async function whatIsMissing(programs: readonly string[]): Promise<string | null> {
  if (process.platform !== 'linux') return 'a Docker engine for tests needs Linux';
  if (process.getuid?.() !== 0) return 'starting a Docker engine needs root';
  for (const program of programs) {
    try {
      await run('sh', ['-c', `command -v ${program}`]);
    } catch {
      return `there is no ${program} on this machine`; // that is the answer
    }
  }
  return null;
}

/** Starts an engine, or says why it cannot. */
export async function startDockerEngine({ network = false }: EngineOptions = {}): Promise<
  DockerEngine | { readonly missing: string }
> {
  const missing = await whatIsMissing(['docker', 'dockerd', network ? 'iptables' : 'tini']);
  if (missing) return { missing };
  const bridge = network ? await makeBridge() : null;
  if (typeof bridge === 'string') return { missing: bridge };
  const folder = await mkdtemp(path.join(tmpdir(), 'sy-docker-'));
  const socket = path.join(folder, 's');
  const logFile = path.join(folder, 'log');
  const log = await open(logFile, 'w');
  const dataDir = path.join(folder, 'data');
  await mkdir(dataDir);
  // Small images, of which each step waits for the disk several times: in memory they are there at once.
  if (network) await run('mount', ['-t', 'tmpfs', '-o', 'size=4g,mode=711', 'switchyard-test', dataDir]);
  // Without a bridge it changes nothing of the machine's network: containers use the host's.
  const options = {
    'data-root': dataDir,
    'exec-root': path.join(folder, 'exec'),
    pidfile: path.join(folder, 'pid'),
    host: `unix://${socket}`,
    bridge: bridge?.name ?? 'none',
    iptables: bridge !== null,
    ...(bridge ? { 'default-address-pool': 'base=172.31.248.0/23,size=26' } : {}),
    ip6tables: false,
    'ip-forward': false,
    'default-ulimit': 'nofile=1024:4096',
  };
  const launch = () =>
    spawn(
      'dockerd',
      Object.entries(options).map(([name, value]) => `--${name}=${value}`),
      { stdio: ['ignore', log.fd, log.fd] },
    );
  let child = launch();
  // The classic builder: it is in every engine, while the newer one is a plug-in of the command line.
  const env = { ...process.env, DOCKER_HOST: `unix://${socket}`, DOCKER_BUILDKIT: '0', DOCKER_CONFIG: folder };
  const docker = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await run('docker', args, { env, maxBuffer }).catch((error: unknown) => {
      const { stdout: said = '', stderr: complained = '' } = error as { stdout?: string; stderr?: string };
      throw new Error(`docker ${args[0]} failed:\n${`${said}${complained}`.slice(-8000)}`);
    });
    return (stdout || stderr).trim();
  };
  const again = async () => {
    child = launch();
    await untilReady(child, docker, logFile);
  };
  const stop = async () => {
    // A test that failed may have left it down, and containers of it.
    if (bridge && child.exitCode !== null) await again();
    await end(child, folder, docker, bridge !== null);
    await log.close();
    await bridge?.remove();
  };
  try {
    await untilReady(child, docker, logFile);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    docker,
    socketPath: socket,
    dataDir,
    address: bridge ? bridgeAddress : null,
    makeBase: (tag) => makeBase(folder, docker, tag),
    makeNode: (tag) => makeNode(folder, docker, tag),
    async kill() {
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      await gone;
    },
    again,
    stop,
  };
}

type Docker = DockerEngine['docker'];

async function untilReady(child: ChildProcess, docker: Docker, logFile: string): Promise<void> {
  for (const deadline = Date.now() + 60_000; ;) {
    const ready = await docker('version', '--format', '{{.Server.Version}}').then(
      () => true,
      () => false,
    );
    if (ready) return;
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
      throw new Error(`dockerd did not start:\n${(await readFile(logFile, 'utf8')).slice(-4000)}`);
    }
    await delay(200);
  }
}

async function end(child: ChildProcess, folder: string, docker: Docker, network: boolean): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const containers = await docker('ps', '--all', '--quiet').catch(() => ''); // it may not have started
    if (containers) await docker('rm', '--force', ...containers.split('\n'));
    if (network) await docker('network', 'prune', '--force'); // their bridges and rules go with them
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    await gone;
  }
  // What outlived its engine: the keepers of containers, with what they keep.
  for (const pid of await processesNaming(folder)) await killTree(pid);
  // The host's network namespace, which containers shared, stays mounted.
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' ')[1] ?? '');
  for (const mount of mounts.filter((at) => at.startsWith(`${folder}/`)).toReversed()) await run('umount', [mount]);
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}

async function killTree(pid: number): Promise<void> {
  const children = await run('ps', ['-o', 'pid=', '--ppid', String(pid)]).then(
    ({ stdout }) => stdout.split('\n').map(Number),
    () => [], // it has none
  );
  for (const child of children.filter((one) => one > 0)) await killTree(child);
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

const bridgeAddress = '172.31.250.1';
const chains = ['DOCKER', 'DOCKER-ISOLATION-STAGE-1', 'DOCKER-ISOLATION-STAGE-2', 'DOCKER-USER'];

/** A bridge for one engine at a time; why there is none: a text. */
async function makeBridge(): Promise<string | { readonly name: string; remove(): Promise<void> }> {
  // Held until this process ends, however it ends: two engines would take each other's rules away.
  const lock = createServer();
  for (const deadline = Date.now() + 240_000; ;) {
    const held = await new Promise<boolean>((resolve) => {
      lock.once('error', () => {
        lock.removeAllListeners('listening');
        resolve(false);
      });
      lock.listen('\0switchyard-test-docker', () => resolve(true));
    });
    if (held) break;
    if (Date.now() > deadline) return 'another test keeps the Docker engine to itself';
    await delay(500);
  }
  const ip = (...args: string[]) => run('ip', args);
  const rules = await run('iptables', ['-S']);
  const name = 'sy-test-docker';
  if (/^-N DOCKER$/m.test(rules.stdout) && !rules.stdout.includes(name)) {
    lock.close();
    return 'another Docker engine has its rules in the packet filter of this machine';
  }
  const clean = async () => {
    // The bridge last: rules that are left name it, and it tells whose they are.
    for (const table of ['filter', 'nat']) {
      const { stdout } = await run('iptables', ['-t', table, '-S']);
      const lines = stdout.split('\n').filter((line) => /DOCKER|sy-test-docker|172\.31\.2(?:48|49|50)\./.test(line));
      for (const line of lines.filter((one) => one.startsWith('-A')))
        await run('iptables', ['-t', table, '-D', ...line.split(' ').slice(1)]);
      for (const chain of chains.filter((one) => lines.includes(`-N ${one}`)))
        await run('iptables', ['-t', table, '-X', chain]);
    }
    const { stdout } = await ip('-oneline', 'address');
    // Networks of an engine that could not be told to remove them.
    for (const [, left = ''] of stdout.matchAll(/^\d+: (br-\S+) +inet 172\.31\.24[89]\./gm))
      await ip('link', 'delete', left);
    await ip('link', 'delete', name).catch(() => undefined); // it was not there
  };
  if (rules.stdout.includes(name)) await clean(); // of a run that was killed
  await ip('link', 'delete', name).catch(() => undefined); // it has no rules, and may be left over
  await ip('link', 'add', name, 'type', 'bridge');
  await ip('address', 'add', `${bridgeAddress}/24`, 'dev', name);
  await ip('link', 'set', name, 'up');
  return {
    name,
    async remove() {
      await clean();
      lock.close();
    },
  };
}

/** What is in an image beside Node, npm and the libraries. */
interface Contents {
  /** Names of programs of this machine, by the folder where the image has them. */
  readonly programs: Readonly<Record<string, readonly string[]>>;
  /** More of this machine's: from where, to where. */
  readonly files?: readonly (readonly [from: string, to: string])[];
  readonly texts?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
}

/** An image of this machine's files, with the libraries that the loader names for its programs. */
async function makeImage(folder: string, docker: Docker, tag: string, contents: Contents): Promise<void> {
  const { programs, files = [], texts = {}, env = {} } = contents;
  const root = path.join(folder, 'image');
  const add = async (from: string, to: string) => {
    await mkdir(path.dirname(path.join(root, to)), { recursive: true });
    await cp(from, path.join(root, to), { recursive: true, verbatimSymlinks: true });
  };
  // What is built into a shell is a program as well.
  const found = async (name: string) => (await run('sh', ['-c', `readlink -f "$(which ${name})"`])).stdout.trim();
  const libraries = new Set<string>();
  const addProgram = async (from: string, to: string) => {
    await add(from, to);
    // A script has none.
    const { stdout } = await run('ldd', [from]).catch(() => ({ stdout: '' }));
    for (const [, file = ''] of stdout.matchAll(/(\/\S+) \(0x/g)) libraries.add(file);
  };
  await addProgram(process.execPath, 'usr/local/bin/node');
  for (const [to, names] of Object.entries(programs))
    for (const name of names) await addProgram(await found(name), `${to}/${name}`);
  for (const [from, to] of files) await add(from, to);
  for (const file of libraries) await add(await realpath(file), file);
  for (const [to, text] of Object.entries(texts)) {
    await mkdir(path.dirname(path.join(root, to)), { recursive: true });
    await writeFile(path.join(root, to), text);
  }
  await add(path.resolve(await found('npm'), '../..'), 'usr/local/lib/node_modules/npm');
  await symlink('../lib/node_modules/npm/bin/npm-cli.js', path.join(root, 'usr/local/bin/npm'));
  await mkdir(path.join(root, 'usr/bin'), { recursive: true });
  await symlink('/bin/env', path.join(root, 'usr/bin/env'));
  await mkdir(path.join(root, 'tmp'));
  await chmod(path.join(root, 'tmp'), 0o1777);
  const archive = path.join(folder, 'image.tar');
  await run('tar', ['--create', '--file', archive, '--owner=0', '--group=0', '--directory', root, '.'], { maxBuffer });
  const variables = { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin', ...env };
  const changes = Object.entries(variables).map(([name, value]) => `--change=ENV ${name}=${value}`);
  await docker('import', ...changes, archive, tag);
  await rm(root, { recursive: true, force: true });
  await rm(archive);
}

/** Node, npm, the shell and some tools. */
const makeNode = (folder: string, docker: Docker, tag: string): Promise<void> =>
  makeImage(folder, docker, tag, {
    programs: { bin: ['sh', 'cat', 'ls', 'sleep', 'echo', 'head', 'id', 'mkdir', 'touch', 'env', 'yes'] },
  });

/** What the Dockerfile of this repository expects of a Debian with Node: its tools for files and users, git and tini. */
async function makeBase(folder: string, docker: Docker, tag: string): Promise<void> {
  const certificates = 'etc/ssl/certs/ca-certificates.crt';
  const gitFolder = (await run('git', ['--exec-path'])).stdout.trim();
  await makeImage(folder, docker, tag, {
    programs: {
      bin: ['sh', 'cat', 'ls', 'rm', 'cp', 'mv', 'mkdir', 'chmod', 'chown', 'env', 'id', 'sed', 'grep', 'uname'],
      'usr/bin': ['find', 'install', 'git', 'tini'], // which Debian's docker.io brings
      'usr/sbin': ['groupadd', 'useradd', 'nologin'],
    },
    files: [
      [path.join('/', certificates), certificates],
      [gitFolder, 'usr/lib/git-core'],
      ['/etc/login.defs', 'etc/login.defs'],
      ['/etc/nsswitch.conf', 'etc/nsswitch.conf'],
    ],
    texts: {
      'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
      'etc/group': 'root:x:0:\n',
      'etc/shadow': 'root:*:19000:0:99999:7:::\n',
      'etc/gshadow': 'root:*::\n',
    },
    env: { NODE_EXTRA_CA_CERTS: `/${certificates}` },
  });
}
