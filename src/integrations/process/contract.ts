import { DomainError } from '#kernel/errors.ts';
import type { Logger } from '#kernel/log.ts';
import type { EndResult, ListedProcess, ProcessIdentity } from '#kernel/processes/children.ts';
import type { PortRange } from './ports.ts';
import type { ProbeResult } from './probe.ts';
import type { DetectedProject } from './projects.ts';

/** The build command did not succeed. */
export class BuildFailed extends DomainError {
  readonly code = 'BUILD_FAILED';
  /** Null when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly timedOut: boolean;
  constructor(exitCode: number | null, signal: string | null, timedOut: boolean) {
    super(
      timedOut
        ? 'The build took too long.'
        : `The build ended with ${exitCode === null ? `signal ${signal}` : `exit code ${exitCode}`}.`,
    );
    this.exitCode = exitCode;
    this.signal = signal;
    this.timedOut = timedOut;
  }
}

/** A variable of the application's environment cannot be set. */
export class EnvironmentRefused extends DomainError {
  readonly code = 'ENVIRONMENT_REFUSED';
}

/** All users of applications of this host have been given away. */
export class NoFreeUser extends DomainError {
  readonly code = 'NO_FREE_USER';
  constructor() {
    super(`The host has users for ${userCount} applications, and all of them are taken.`);
  }
}

export type OutputStream = 'STDOUT' | 'STDERR';
export type RecordChild = (child: ProcessIdentity) => Promise<void>;
export type Environment = Readonly<Record<string, string>>;

export interface ProcessDriverOptions {
  /**
   * The host's folder, absolute, for this driver and the address proxy alone. With isolation it is made 0711, and the
   * folders above must let other users through.
   */
  readonly hostDir: string;
  /** `user` needs root. Default: `user` when root, else `none`. */
  readonly isolation?: 'user' | 'none';
  /** First of 4000 user ids that belong to applications and to nobody else; default 61184. */
  readonly userBase?: number;
  /** The `node` that applications run with, absolute. */
  readonly nodeBinary: string;
  /** Folders with npm and the usual programs, for PATH; the folder of `nodeBinary` comes first by itself. */
  readonly pathDirs: readonly string[];
  readonly limits: {
    /** Of the JavaScript heap of each Node process, MiB. */
    readonly memoryMb: number;
    /** Per process. */
    readonly maxOpenFiles: number;
    /** Processes and threads of one application, builds included. */
    readonly maxProcesses: number;
  };
  /** Ports for instances; default 20000 to 26999. Keep the stable addresses out of it. */
  readonly instancePorts?: PortRange;
  /** Gives ports instead, where other drivers take them from the same range. */
  readonly findPort?: () => Promise<number>;
  /** What builds get beside the usual, for instance where npm's registry and its certificates are. */
  readonly buildEnvironment?: Environment;
  readonly log: Logger;
}

/** What holds applications in, for the start log and the documentation. */
export interface ProcessDriverLimits {
  readonly isolation: 'user' | 'none';
  /** Sentences. */
  readonly applied: readonly string[];
  readonly missing: readonly string[];
}

export interface StartedInstance extends ProcessIdentity {
  /** On 127.0.0.1. */
  readonly port: number;
  /** User that the application has to itself; null without isolation. */
  readonly uid: number | null;
  /** Where its output begins in the release's log, bytes. */
  readonly logFrom: number;
}

export interface ProcessDriver {
  readonly limits: ProcessDriverLimits;
  /** The user and group of an application; undefined without isolation: the server's own. */
  userOf(userSlot: number): { uid: number; gid: number } | undefined;
  /**
   * An empty release folder of the application's user, private to it. What was there under the name is removed.
   * @param release.name `<runId>.<attempt>`
   */
  prepare(release: { applicationId: string; name: string; userSlot: number }): Promise<{ path: string }>;
  /** @throws UnknownProject */
  detectProject(path: string): Promise<DetectedProject>;
  /**
   * Runs `/bin/sh -c command` in the release. All that it started is ended with it.
   * @throws BuildFailed | EnvironmentRefused, or the signal's reason
   */
  build(options: {
    path: string;
    command: string;
    environment: Environment;
    userSlot: number;
    signal: AbortSignal;
    timeoutMs: number;
    /** The command waits while this does. */
    onOutput: (stream: OutputStream, line: string) => void | Promise<void>;
    record: RecordChild;
  }): Promise<void>;
  /**
   * Starts an instance that outlives this server. It has been recorded when this resolves, it need not listen yet.
   * @throws EnvironmentRefused
   */
  start(options: {
    path: string;
    startCommand: string;
    environment: Environment;
    userSlot: number;
    /** Of the JavaScript heap, MiB; default: the driver's. */
    memoryMb?: number | null;
    record: RecordChild;
  }): Promise<StartedInstance>;
  /**
   * One GET to an instance; redirects are not followed. With `userSlot` an answer of somebody else who took the port
   * is not ok.
   * @throws only the signal's reason
   */
  probe(options: {
    port: number;
    path: string;
    timeoutMs: number;
    signal: AbortSignal;
    userSlot?: number;
  }): Promise<ProbeResult>;
  /** Last lines that the release's instances wrote. */
  tail(path: string, lines: number): Promise<string[]>;
  /** What they wrote from `fromByte` on (default 0) and write, line by line, until `signal` ends it. */
  follow(path: string, signal: AbortSignal, fromByte?: number): AsyncGenerator<string, void, undefined>;
  /** Ends an instance, or anything else that was recorded, with all that it started. */
  stop(identity: ProcessIdentity, graceMs: number): Promise<EndResult>;
  /** Removes a release with its log. Fine when it is gone. */
  remove(path: string): Promise<void>;
  /**
   * Removes all of an application that runs nothing any more: its folder, and with isolation every process that its
   * user still has, recorded or not, so that the user can be given to another application. Fine when it is gone.
   * @throws Error when something is left
   */
  forget(application: { applicationId: string; userSlot: number }): Promise<void>;
  /**
   * Ends every process that an application's user has, recorded or not; without isolation they cannot be told: none.
   * @throws Error when one is left
   */
  endUser(userSlot: number): Promise<void>;
  /** Every release folder of this host, whether a row knows it or not. */
  listReleases(): Promise<{ readonly path: string; readonly name: string }[]>;
  /**
   * Bytes on disk by application: releases, their homes and logs, caches. One whose folder is not measured in time, because
   * of what is in it, is not told.
   */
  sizes(signal: AbortSignal): Promise<ReadonlyMap<string, number>>;
  /** Bytes that are free on the file system of applications. */
  free(): Promise<number>;
  /** The processes of all applications of this host, recorded or not; without isolation they cannot be told: none. */
  listProcesses(): Promise<(ListedProcess & { readonly userOffset: number })[]>;
  /** Cuts the logs that are too long (10 MiB); the address proxy does it every 10 s. */
  rotateLogs(): Promise<number>;
}

/** Applications that a host can have. */
export const userCount = 4_000;

/**
 * What is wrong with an application's variables, as a sentence; null: nothing. Variables of the dynamic loader and of
 * the shell's start would run the application's code before its process is recorded; a start command can set them.
 * Everything else is the application's own, `NODE_OPTIONS` and `PATH` included.
 */
export function validateEnvironment(environment: Environment): string | null {
  for (const [name, value] of Object.entries(environment)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) return `${JSON.stringify(name)} is not a name for a variable.`;
    if (/^(?:LD_|DYLD_|GLIBC_TUNABLES$|MALLOC_|GCONV_PATH$|BASH_ENV$|ENV$|SHELLOPTS$|BASHOPTS$|PS4$|IFS$)/.test(name)) {
      return `${name} cannot be set here; set it in the start command.`;
    }
    if (value.includes('\0')) return `The value of ${name} contains a zero character.`;
  }
  return null;
}
