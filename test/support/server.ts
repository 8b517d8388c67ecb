import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { start, type Running, type StartOptions } from '../../src/start.ts';
import { testDatabase, type TestDatabase } from './database.ts';

export interface TestServer {
  /** Address of the GraphQL endpoint. */
  readonly url: string;
  readonly running: Running;
  readonly database: TestDatabase;
  readonly stateDir: string;
  /** The environment that it was configured with; more servers on the same database can be made of it. */
  readonly env: Readonly<Record<string, string>>;
  stop(): Promise<void>;
}

let portBase = 0;

/** Port ranges for the applications of one test server; files run side by side in processes of their own. */
export function portRanges(): { SWITCHYARD_ADDRESS_PORTS: string; SWITCHYARD_INSTANCE_PORTS: string } {
  // 4 workers of vitest, with 8 servers each: 100 addresses and 100 instances for every one. None is a port that `fetch`
  // refuses to ask. @see https://fetch.spec.whatwg.org/#port-blocking
  const worker = Number(process.env['VITEST_POOL_ID'] ?? '1') % 4;
  const slot = worker * 8 + (portBase++ % 8);
  const address = 22_000 + slot * 100;
  const instance = 18_000 + slot * 100;
  return {
    SWITCHYARD_ADDRESS_PORTS: `${address}-${address + 99}`,
    SWITCHYARD_INSTANCE_PORTS: `${instance}-${instance + 99}`,
  };
}

/** Users of applications of one test server alone: they must not be those of another one on this machine. */
const userBase = (): string => String(1_000_000 + ((process.pid % 50_000) * 8 + (userRanges++ % 8)) * 4000);
let userRanges = 0;

/** A folder that other users of the machine can pass through, as applications run by their own users must. */
export async function testFolder(): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'switchyard-test-'));
  await chmod(folder, 0o711);
  return folder;
}

export function environment(
  folder: string,
  databaseUrl: string,
  extra: Readonly<Record<string, string>> = {},
): Record<string, string> {
  return {
    NODE_ENV: 'test',
    PATH: process.env['PATH'] ?? '',
    PORT: '0',
    LOG_LEVEL: process.env['TEST_LOG_LEVEL'] ?? 'fatal',
    DATABASE_URL: databaseUrl,
    SWITCHYARD_STATE_DIR: path.join(folder, 'state'),
    SWITCHYARD_SHARED_DIR: path.join(folder, 'shared'),
    // Tests ask again and again until something is so.
    SWITCHYARD_RATE_POINTS: '1000000000',
    SWITCHYARD_RATE_POINTS_ANONYMOUS: '1000000000',
    ...portRanges(),
    // Whatever engine this machine has: tests of the Docker driver start one of their own.
    SWITCHYARD_DOCKER: 'off',
    SWITCHYARD_APP_USER_BASE: userBase(),
    // Tests have as many as they like where they are about something else.
    SWITCHYARD_MAX_APPLICATIONS: '100000',
    // Only where a test is about it.
    SWITCHYARD_METRICS_INTERVAL_S: '0',
    // Everybody in a test comes from one address.
    SWITCHYARD_SIGN_UPS_PER_HOUR: '1000000',
    // Passwords of tests are no secrets; production refuses to be told so.
    ...(extra['NODE_ENV'] === 'production' ? {} : { SWITCHYARD_PASSWORD_MEMORY_KIB: '64' }),
    ...extra,
  };
}

/** A whole server in this process, on a database of its own. */
export async function startTestServer(
  extra: Readonly<Record<string, string>> = {},
  options: StartOptions = {},
  database?: TestDatabase,
): Promise<TestServer> {
  const folder = await testFolder();
  await mkdir(path.join(folder, 'shared'), { mode: 0o711 });
  const own = database ?? (await testDatabase());
  const env = environment(folder, own.url, extra);
  const running = await start(loadConfig(env), { endApplications: true, ...options });
  return {
    url: running.url === null ? '' : `${running.url}/graphql`,
    running,
    database: own,
    stateDir: path.join(folder, 'state'),
    env,
    async stop() {
      await running.stop();
      if (!database) await own.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export interface ServerProcess {
  readonly child: ChildProcess;
  /** Address of the GraphQL endpoint; empty for a worker. */
  readonly url: string;
  readonly workerId: string | null;
  /** Its log so far, JSON lines. */
  readonly lines: string[];
  kill(signal: NodeJS.Signals): Promise<void>;
}

/** A server in a process of its own, for tests that kill it. Resolves when it is ready. */
export async function spawnServer(
  env: Readonly<Record<string, string>>,
  as: { readonly uid?: number; readonly gid?: number } = {},
): Promise<ServerProcess> {
  const child = spawn(process.execPath, [path.resolve('src/main.ts')], {
    ...as,
    env: { ...env, LOG_LEVEL: 'info' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines: string[] = [];
  const api = (env['SWITCHYARD_ROLES'] ?? 'api,worker').includes('api');
  const ready = new Promise<{ url: string; workerId: string | null }>((resolve, reject) => {
    let rest = '';
    const read = (chunk: Buffer) => {
      rest += chunk.toString();
      const parts = rest.split('\n');
      rest = parts.pop() ?? '';
      for (const line of parts) {
        lines.push(line);
        const said = parsed(line);
        if (said?.['msg'] === (api ? 'listening' : 'worker ready')) {
          resolve({
            url: typeof said['url'] === 'string' ? said['url'] : '',
            workerId: typeof said['workerId'] === 'string' ? said['workerId'] : null,
          });
        }
      }
    };
    child.stdout?.on('data', read);
    child.stderr?.on('data', read);
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}:\n${lines.slice(-20).join('\n')}`)));
  });
  const { url, workerId } = await ready;
  return {
    child,
    url,
    workerId,
    lines,
    async kill(signal) {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, 'exit');
      child.kill(signal);
      await gone;
    },
  };
}

function parsed(line: string): Record<string, unknown> | null {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return null; // a line of Node's own
  }
}
