import type { Agent } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type Docker from 'dockerode';
import { DomainError } from '#kernel/errors.ts';
import { codeOf, DiskFull } from '#kernel/system-error.ts';

/** The Docker engine does not answer, or went away in the middle. It may be back soon: ask again. */
export class DriverUnavailable extends DomainError {
  readonly code = 'DRIVER_UNAVAILABLE';
  constructor(reason: string) {
    super(`The Docker engine does not answer (${reason}).`);
  }
}

/** An engine that says nothing for so long is as good as none, milliseconds. */
const silenceMs = 20_000;
/** How long an engine that stops may still answer after it has begun to end what it ran, milliseconds. */
const leavingMs = 3_000;
const gone = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'EACCES', 'ETIMEDOUT', 'ERR_STREAM_PREMATURE_CLOSE', 'ERR_SOCKET_CLOSED']); // prettier-ignore

export interface Engine {
  /** For questions that are answered soon. */
  readonly docker: Docker;
  /** For streams, which may be silent for long. */
  readonly streams: Docker;
  /** @throws DriverUnavailable in place of an error of the connection, or of an engine that is about to go away; DiskFull */
  ask<T>(work: (docker: Docker) => Promise<T>): Promise<T>;
  /** Whether it goes away soon: an engine that stops still answers for a while, with strange errors. */
  leaves(): Promise<boolean>;
}

/** Where an engine is: a socket of this machine, or what opens connections to that of another one. */
export type EngineAddress = { readonly socketPath: string } | { readonly agent: Agent };

export async function createEngine(address: EngineAddress): Promise<Engine> {
  // Only here: it takes 34 MB of every process that has it.
  const { default: Client } = await import('dockerode');
  // Without a host, or DOCKER_HOST of the process would count.
  const options = (
    'agent' in address
      ? { agent: address.agent, protocol: 'http', host: 'engine', port: undefined, socketPath: undefined }
      : { socketPath: address.socketPath, host: undefined, port: undefined }
  ) as Docker.DockerOptions;
  // A way to another machine is slower, and has limits of its own.
  const docker = new Client({ ...options, ...('agent' in address ? {} : { timeout: silenceMs }) });
  const leaves = async (): Promise<boolean> => {
    for (const until = performance.now() + leavingMs; performance.now() < until; await delay(100)) {
      try {
        await docker.ping();
      } catch (error) {
        // Whatever else it says, the first answer is the one that counts.
        return translated(error) instanceof DriverUnavailable;
      }
    }
    return false;
  };
  return {
    docker,
    streams: new Client(options),
    leaves,
    async ask(work) {
      try {
        return await work(docker);
      } catch (error) {
        const known = translated(error);
        const own = (statusOf(known) ?? 0) >= 500;
        throw own && (await leaves()) ? new DriverUnavailable('it stopped in the middle') : known;
      }
    },
  };
}

/** Whether an engine says that it has no room. */
export const isFull = (said: string): boolean => /no space left on device|disk quota exceeded/i.test(said);

/** DriverUnavailable when the connection to the engine is what failed, DiskFull when it has no room; else the error itself. */
export function translated(error: unknown): unknown {
  const code = codeOf(error);
  const named = typeof code === 'string' ? code : null;
  const said = error instanceof Error ? error.message : String(error);
  if (statusOf(error) === undefined && ((named !== null && gone.has(named)) || /socket hang up|^aborted$/.test(said)))
    return new DriverUnavailable(named ?? said);
  // The engine answers while it stops or before it is ready.
  if (statusOf(error) === 503) return new DriverUnavailable(said);
  return (statusOf(error) ?? 0) >= 500 && isFull(said) ? new DiskFull('the Docker engine') : error;
}

/** Status of the engine's answer; undefined: it was none. */
export function statusOf(error: unknown): number | undefined {
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  return typeof status === 'number' ? status : undefined;
}

/** What the engine said, without the HTTP around it. */
export function saidBy(error: unknown): string {
  const message = (error as { json?: { message?: unknown } } | null)?.json?.message;
  return typeof message === 'string' ? message : error instanceof Error ? error.message : String(error);
}

/** Null for what is not there. */
export async function absentAsNull<T>(asked: Promise<T>): Promise<T | null> {
  try {
    return await asked;
  } catch (error) {
    if (statusOf(error) === 404) return null;
    throw error;
  }
}
