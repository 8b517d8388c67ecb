import type { ProcessIdentity } from '#kernel/processes/children.ts';

/** What a driver wants to be kept, JSON that nobody else reads. */
export type Opaque = { readonly [key: string]: string | number | boolean | null };

export type DriverName = 'PROCESS' | 'DOCKER' | 'EC2';
export type OutputStream = 'STDOUT' | 'STDERR' | 'SYSTEM';
export type Log = (line: string, stream?: OutputStream) => void | Promise<void>;

/** Whose something is: an application with its user on the host. */
export interface Owner {
  readonly applicationId: string;
  readonly userSlot: number;
}

/** Who makes it. What no execution answers for any more is found by it and removed. */
export interface Maker {
  readonly runId: string;
  readonly attempt: number;
}

export interface Limits {
  /** MiB; null: the driver's own. */
  readonly memoryMb: number | null;
  /** Thousandths of a processor; null: the driver's own. */
  readonly milliCpus: number | null;
}

export interface Built {
  readonly artifact: Opaque;
  /** Digest of the image; null: it is none. */
  readonly imageId: string | null;
}

export interface Started {
  readonly instance: Opaque;
  /** IPv4 address that it is reached at; not given: 127.0.0.1. */
  readonly host?: string;
  readonly port: number;
  /** The user who alone listens there; null: it cannot be told by its user. */
  readonly uid: number | null;
  /** Where its output begins, for `follow`. */
  readonly logFrom: number;
}

export interface Probe {
  /** 2xx or 3xx came in time, from the instance itself. */
  readonly ok: boolean;
  readonly status?: number;
  readonly bodyStart?: string;
  readonly error?: string;
  readonly latencyMs: number;
}

/** What an instance is measured by. */
export type Figure = 'CPU' | 'MEMORY' | 'MEMORY_LIMIT' | 'DISK' | 'NETWORK';
/** Why a figure is not there. */
export type Missing = 'SHARED_WITH_HOST' | 'NOT_REPORTED' | 'NO_LIMIT' | 'OTHER_SYSTEM';

/** What an instance has used since it began; null: it cannot be told, and `missing` says why. */
export interface Usage {
  /** Time on processors, milliseconds. */
  readonly cpuMs: number | null;
  /** Now, bytes. */
  readonly memoryBytes: number | null;
  readonly memoryLimitBytes: number | null;
  /** Of block devices. */
  readonly diskReadBytes: number | null;
  readonly diskWrittenBytes: number | null;
  readonly networkReceivedBytes: number | null;
  readonly networkSentBytes: number | null;
  readonly missing: Readonly<Partial<Record<Figure, Missing>>>;
}

/** A release that runs, or ran. */
export interface Running {
  readonly artifact: Opaque;
  readonly instance: Opaque;
}

/** What a host runs applications with. Beside `build`, everything may be asked again after an interruption. */
export interface Driver {
  readonly name: DriverName;
  /** Whether it can be given applications now. */
  answers(): Promise<boolean>;
  /**
   * Makes an artifact of a checkout. Nothing that it started goes on when this is over, and a signal ends it at once.
   * @throws {DomainError} what the application's people can act on; DriverUnavailable: try again
   */
  build(
    what: Owner &
      Maker & {
        /** A folder of the owner's own; the artifact may be this very folder. */
        readonly source: string;
        readonly buildCommand: string | null;
        readonly startCommand: string | null;
        readonly environment: Readonly<Record<string, string>>;
        readonly signal: AbortSignal;
        readonly timeoutMs: number;
        /** The build waits while this does. */
        readonly log: Log;
        /** Told of each process before it does anything. */
        readonly recordChild: (child: ProcessIdentity) => Promise<void>;
      },
  ): Promise<Built>;
  /** Starts an instance that outlives this server. It need not listen yet. */
  start(
    what: Owner &
      Maker & {
        readonly artifact: Opaque;
        readonly environment: Readonly<Record<string, string>>;
        readonly limits: Limits;
        readonly log?: Log;
        readonly recordChild?: (child: ProcessIdentity) => Promise<void>;
        /** Told of the instance before it does anything. When this fails, there is none. */
        readonly record?: (instance: Opaque) => Promise<void>;
      },
  ): Promise<Started>;
  /** @throws DriverUnavailable when it cannot be told */
  alive(instance: Opaque): Promise<boolean>;
  /** One GET; redirects are not followed. @throws only the signal's reason */
  probe(
    what: Owner & {
      readonly instance: Opaque;
      readonly port: number;
      readonly path: string;
      readonly timeoutMs: number;
      readonly signal: AbortSignal;
    },
  ): Promise<Probe>;
  /** What instances have used, in their order; null: it does not run. @throws DriverUnavailable when it cannot be told */
  usage(instances: readonly Opaque[]): Promise<(Usage | null)[]>;
  /**
   * Bytes on disk of all that this host has there, by application: what was built, and what instances have written. An
   * application whose size cannot be told is not in it.
   * @throws DriverUnavailable when it cannot be told
   */
  sizes(signal: AbortSignal): Promise<ReadonlyMap<string, number>>;
  /** Bytes that are free where it keeps that; null: it cannot be told. */
  free(): Promise<number | null>;
  /** Why it ended, where the driver knows more than its output tells; null: it does not. */
  ending(instance: Opaque): Promise<string | null>;
  /** Last lines of its output. */
  tail(one: Running, lines: number): Promise<string[]>;
  /** Its output from `logFrom` on, line by line, until `signal` ends it. */
  follow(one: Running, logFrom: number, signal: AbortSignal): AsyncIterable<string>;
  /** Ends an instance with all that it started. Fine when it is gone. */
  stop(instance: Opaque, graceMs: number): Promise<void>;
  /** Removes an artifact. Fine when it is gone. */
  remove(artifact: Opaque): Promise<void>;
  /** Removes all of an application that is to run nothing any more. Fine when it is gone. */
  forget(owner: Owner): Promise<void>;
  /** What there is on this host, whether a row knows it or not. A row has it that contains all that is told here. */
  list(): Promise<{
    readonly artifacts: readonly { readonly artifact: Opaque; readonly runId: string }[];
    readonly instances: readonly (Maker & { readonly instance: Opaque; readonly ageMs: number })[];
  }>;
}
