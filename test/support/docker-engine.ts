import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cp, copyFile, mkdir, mkdtemp, open, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
const maxBuffer = 64 * 1024 * 1024;

/** A Docker engine of this test's own: no network of its own, nothing of it left afterwards. */
export interface DockerEngine {
  /** The command line against this engine; gives its output. @throws with all that it said */
  docker(...args: string[]): Promise<string>;
  /** Makes an image of Debian, Node 24, npm and git, since no image registry can be relied on. */
  makeBase(tag: string): Promise<void>;
  stop(): Promise<void>;
}

async function whatIsMissing(): Promise<string | null> {
  if (process.platform !== 'linux') return 'a Docker engine for tests needs Linux';
  if (process.getuid?.() !== 0) return 'starting a Docker engine needs root';
  for (const program of ['docker', 'dockerd', 'debootstrap']) {
    try {
      await run('sh', ['-c', `command -v ${program}`]);
    } catch {
      return `there is no ${program} on this machine`; // that is the answer
    }
  }
  return null;
}

/** Starts an engine, or says why it cannot. */
export async function startDockerEngine(): Promise<DockerEngine | { readonly missing: string }> {
  const missing = await whatIsMissing();
  if (missing) return { missing };
  const folder = await mkdtemp(path.join(tmpdir(), 'sy-docker-'));
  const socket = path.join(folder, 's');
  const logFile = path.join(folder, 'log');
  const log = await open(logFile, 'w');
  // Without a bridge it changes nothing of the machine's network: containers use the host's.
  const options = {
    'data-root': path.join(folder, 'data'),
    'exec-root': path.join(folder, 'exec'),
    pidfile: path.join(folder, 'pid'),
    host: `unix://${socket}`,
    bridge: 'none',
    iptables: false,
    ip6tables: false,
    'ip-forward': false,
    'default-ulimit': 'nofile=1024:4096',
  };
  const child = spawn(
    'dockerd',
    Object.entries(options).map(([name, value]) => `--${name}=${value}`),
    { stdio: ['ignore', log.fd, log.fd] },
  );
  await log.close();
  // The classic builder: it is in every engine, while the newer one is a plug-in of the command line.
  const env = { ...process.env, DOCKER_HOST: `unix://${socket}`, DOCKER_BUILDKIT: '0', DOCKER_CONFIG: folder };
  const docker = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await run('docker', args, { env, maxBuffer }).catch((error: unknown) => {
      const { stdout: said = '', stderr: complained = '' } = error as { stdout?: string; stderr?: string };
      throw new Error(`docker ${args[0]} failed:\n${`${said}${complained}`.slice(-8000)}`);
    });
    return (stdout || stderr).trim();
  };
  const stop = () => end(child, folder, docker);
  try {
    await untilReady(child, docker, logFile);
  } catch (error) {
    await stop();
    throw error;
  }
  return { docker, makeBase: (tag) => makeBase(folder, docker, tag), stop };
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

async function end(child: ChildProcess, folder: string, docker: Docker): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const containers = await docker('ps', '--all', '--quiet').catch(() => ''); // it may not have started
    if (containers) await docker('rm', '--force', ...containers.split('\n'));
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    await gone;
  }
  // The host's network namespace, which containers shared, stays mounted.
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' ')[1] ?? '');
  for (const mount of mounts.filter((at) => at.startsWith(`${folder}/`)).toReversed()) await run('umount', [mount]);
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}

/** From Debian's packages, this repository's Node, and the npm and certificates of this machine. */
async function makeBase(folder: string, docker: Docker, tag: string): Promise<void> {
  const root = path.join(folder, 'base');
  await run('debootstrap', ['--variant=minbase', '--include=ca-certificates,git,tini', 'bookworm', root], {
    maxBuffer,
  });
  for (const needless of ['var/cache/apt/archives', 'var/lib/apt/lists', 'usr/share/doc', 'usr/share/locale']) {
    await rm(path.join(root, needless), { recursive: true, force: true });
    await mkdir(path.join(root, needless), { recursive: true });
  }
  const local = path.join(root, 'usr/local');
  await copyFile(process.execPath, path.join(local, 'bin/node'));
  const npm = (await run('sh', ['-c', 'readlink -f "$(command -v npm)"'])).stdout.trim();
  await mkdir(path.join(local, 'lib/node_modules'), { recursive: true });
  await cp(path.resolve(npm, '../..'), path.join(local, 'lib/node_modules/npm'), { recursive: true });
  await symlink('../lib/node_modules/npm/bin/npm-cli.js', path.join(local, 'bin/npm'));
  const certificates = 'etc/ssl/certs/ca-certificates.crt';
  await copyFile(path.join('/', certificates), path.join(root, certificates));
  const archive = path.join(folder, 'base.tar');
  await run('tar', ['--create', '--file', archive, '--directory', root, '.'], { maxBuffer });
  const changes = [
    'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    `ENV NODE_EXTRA_CA_CERTS=/${certificates}`,
  ];
  await docker('import', ...changes.map((change) => `--change=${change}`), archive, tag);
  await rm(root, { recursive: true, force: true });
  await rm(archive);
}
