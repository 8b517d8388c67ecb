import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { access, chmod, constants, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestContext } from 'vitest';
import { until } from './embedded.ts';

/** An outside program that a test needs, with the Debian package that has it. */
export interface Counterpart {
  readonly program: string;
  readonly package: string;
}

export const redisServer: Counterpart = { program: 'redis-server', package: 'redis-server' };
export const pgBouncer: Counterpart = { program: 'pgbouncer', package: 'pgbouncer' };

/**
 * Where the program is. Skips the test, and says so, when it is missing.
 * @throws instead of skipping when REQUIRE_COUNTERPARTS is set
 */
export async function locate(counterpart: Counterpart, context: TestContext): Promise<string> {
  for (const folder of [...(process.env['PATH'] ?? '').split(path.delimiter), '/usr/sbin', '/usr/local/sbin']) {
    const file = path.join(folder, counterpart.program);
    const there = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (there) return file;
  }
  const reason = `${counterpart.program} is not installed: apt-get install -y ${counterpart.package}`;
  if (process.env['REQUIRE_COUNTERPARTS']) throw new Error(reason);
  return context.skip(reason);
}

let tried = 0;

/** A port that nobody listens on, below those that the system gives to outgoing connections. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 24_000 + ((process.pid * 17 + tried++) % 8000);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!free) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

export interface RunningCounterpart {
  readonly port: number;
  stop(): Promise<void>;
}

async function run(
  program: string,
  port: number,
  folder: string,
  args: string[],
  user?: { uid: number; gid: number },
): Promise<RunningCounterpart> {
  const child: ChildProcess = spawn(program, args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'], ...user });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(child, 'exit');
  const answers = () =>
    new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
  await until(`${program} answers`, async () => {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`${program} ended:\n${said}`);
    return answers();
  });
  return {
    port,
    async stop() {
      child.kill('SIGKILL');
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function folderFor(name: string): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), `switchyard-${name}-`));
  await chmod(folder, 0o755);
  return folder;
}

/** A Redis server of its own on 127.0.0.1, without persistence. */
export async function startRedis(program: string, onPort?: number): Promise<RunningCounterpart> {
  const port = onPort ?? (await freePort());
  const folder = await folderFor('redis');
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no'];
  return run(program, port, folder, args);
}

/** A PgBouncer in transaction mode before the server of `url`, for all of its databases. */
export async function startPgBouncer(program: string, url: string): Promise<RunningCounterpart> {
  const port = await freePort();
  const folder = await folderFor('pgbouncer');
  const target = new URL(url);
  await writeFile(
    path.join(folder, 'users.txt'),
    `"${decodeURIComponent(target.username)}" "${decodeURIComponent(target.password)}"\n`,
  );
  const file = path.join(folder, 'pgbouncer.ini');
  await writeFile(
    file,
    [
      '[databases]',
      `* = host=${target.hostname} port=${target.port}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      'auth_type = trust',
      `auth_file = ${path.join(folder, 'users.txt')}`,
      'pool_mode = transaction',
      'default_pool_size = 5',
      'max_client_conn = 200',
      '',
    ].join('\n'),
  );
  // It refuses to be root.
  const nobody = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : undefined;
  return run(program, port, folder, [file], nobody);
}

/** The address of a database with another port. */
export function throughPort(url: string, port: number): string {
  const through = new URL(url);
  through.port = String(port);
  return through.href;
}
