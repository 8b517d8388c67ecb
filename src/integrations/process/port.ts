import { isAlive, type ProcessIdentity } from '#kernel/processes/children.ts';
import type { ProcessDriver, RecordChild } from './contract.ts';
import type { DetectedProject } from './projects.ts';
import { usageOf } from './usage.ts';

type Opaque = { readonly [key: string]: string | number | boolean | null };
type Owner = { readonly applicationId: string; readonly userSlot: number };
type Environment = Readonly<Record<string, string>>;
type Log = (line: string, stream?: 'STDOUT' | 'STDERR' | 'SYSTEM') => void | Promise<void>;

/** The process driver as the deployments see it: an artifact is a folder with a command, an instance a process. */
export function createProcessPort(driver: ProcessDriver) {
  return {
    name: 'PROCESS' as const,

    answers: () => Promise.resolve(true),

    async build(what: {
      readonly userSlot: number;
      readonly source: string;
      readonly buildCommand: string | null;
      readonly startCommand: string | null;
      readonly environment: Environment;
      readonly signal: AbortSignal;
      readonly timeoutMs: number;
      readonly log: Log;
      readonly recordChild: RecordChild;
    }) {
      const { source: path, environment, userSlot, signal, timeoutMs, log } = what;
      const detected = await detect(path, what);
      const command = what.buildCommand ?? detected?.buildCommand ?? null;
      const startCommand = what.startCommand ?? detected?.startCommand ?? '';
      if (command === null) {
        await log('Nothing to build.');
      } else {
        await log(`$ ${command}`);
        await driver.build({
          path,
          command,
          environment,
          userSlot,
          signal,
          timeoutMs,
          onOutput: (stream, line) => log(line, stream),
          record: what.recordChild,
        });
      }
      return { artifact: { path, startCommand }, imageId: null };
    },

    async start(what: {
      readonly userSlot: number;
      readonly artifact: Opaque;
      readonly environment: Environment;
      readonly limits: { readonly memoryMb: number | null };
      readonly log?: Log;
      readonly recordChild?: RecordChild;
      readonly record?: (instance: Opaque) => Promise<void>;
    }) {
      const { path, startCommand } = folderOf(what.artifact);
      await what.log?.(`$ ${startCommand}`);
      const { pid, startTime, port, uid, logFrom } = await driver.start({
        path,
        startCommand,
        environment: what.environment,
        userSlot: what.userSlot,
        memoryMb: what.limits.memoryMb,
        async record(child) {
          await what.recordChild?.(child);
          await what.record?.({ pid: child.pid, startTime: child.startTime });
        },
      });
      await what.log?.(`Started as process ${pid} on port ${port}.`);
      return { instance: { pid, startTime }, port, uid, logFrom };
    },

    alive: async (instance: Opaque) => isAlive(processOf(instance)),

    probe: (what: { port: number; path: string; timeoutMs: number; signal: AbortSignal; userSlot: number }) =>
      driver.probe({
        port: what.port,
        path: what.path,
        timeoutMs: what.timeoutMs,
        signal: what.signal,
        userSlot: what.userSlot,
      }),

    usage: (instances: readonly Opaque[]) => usageOf(instances.map(processOf)),

    sizes: (signal: AbortSignal) => driver.sizes(signal),

    free: () => driver.free(),

    ending: () => Promise.resolve(null),

    tail: (one: { readonly artifact: Opaque }, lines: number) => driver.tail(folderOf(one.artifact).path, lines),

    follow: (one: { readonly artifact: Opaque }, logFrom: number, signal: AbortSignal) =>
      driver.follow(folderOf(one.artifact).path, signal, logFrom),

    async stop(instance: Opaque, graceMs: number) {
      await driver.stop(processOf(instance), graceMs);
    },

    remove: (artifact: Opaque) => driver.remove(folderOf(artifact).path),

    forget: ({ applicationId, userSlot }: Owner) => driver.forget({ applicationId, userSlot }),

    async list() {
      const folders = await driver.listReleases();
      // Processes that no execution answers for are ended by the record of their run.
      return {
        artifacts: folders.map(({ path, name }) => ({
          artifact: { path },
          runId: name.slice(0, name.lastIndexOf('.')),
        })),
        instances: [],
      };
    },
  };

  async function detect(
    path: string,
    given: { readonly buildCommand: string | null; readonly startCommand: string | null },
  ): Promise<DetectedProject | null> {
    if (given.buildCommand !== null && given.startCommand !== null) return null;
    try {
      return await driver.detectProject(path);
    } catch (error) {
      // Only what is not given must be found out.
      if (given.startCommand !== null) return null;
      throw error;
    }
  }
}

function folderOf({ path, startCommand }: Opaque): { path: string; startCommand: string } {
  if (typeof path !== 'string') throw new Error('This is no artifact of the process driver.');
  return { path, startCommand: typeof startCommand === 'string' ? startCommand : '' };
}

function processOf({ pid, startTime }: Opaque): ProcessIdentity {
  if (typeof pid !== 'number' || typeof startTime !== 'string')
    throw new Error('This is no instance of the process driver.');
  return { pid, startTime };
}
