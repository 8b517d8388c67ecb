import type { Actor } from './auth/actor.ts';
import type { Actors } from './auth/actors.ts';
import type { Database, Db } from './db/client.ts';
import type { Transact } from './db/transact.ts';
import type { Jobs } from './jobs/jobs.ts';
import type { Hub } from './live/hub.ts';
import type { WakeUps } from './live/wakeups.ts';
import type { Logger } from './log.ts';
import type { BlobStore } from './storage/store.ts';
import type { StorageUrls } from './storage/signed-urls.ts';
import type { Metrics } from './telemetry/metrics.ts';

/** Everything that a service may touch. A plain object, built once per process; tests build their own. */
export interface App {
  readonly log: Logger;
  readonly database: Database;
  readonly db: Db;
  /** State, events and jobs in one transaction. */
  readonly transact: Transact;
  readonly actors: Actors;
  readonly wakeUps: WakeUps;
  readonly hub: Hub;
  readonly jobs: Jobs;
  readonly blobs: BlobStore;
  readonly storageUrls: StorageUrls;
  readonly metrics: Metrics;
  readonly limits: AppLimits;
  /** The one instance of a service in this process. */
  use<T>(service: Service<T>): T;
}

/** Numbers that services look up. */
export interface AppLimits {
  readonly maxUploadBytes: number;
  /** Uploads of a workspace that have not arrived, and their announced bytes. */
  readonly maxOpenUploads: number;
  readonly maxPendingBytes: number;
  readonly runLeaseS: number;
  readonly eventRetentionDays: number;
}

/** A recipe for one service; also the key that it is looked up by. */
export interface Service<T> {
  readonly name: string;
  readonly make: (app: App) => T;
}

/** Declares a service. `make` runs once per app; another service is reached with `app.use(Other)`. */
export const service = <T extends object>(name: string, make: (app: App) => T): Service<T> => ({ name, make });

/** A settings token: a value that `main` provides and a domain asks for, such as its driver. */
export function required<T extends object>(name: string): Service<T> {
  return service<T>(name, () => {
    throw new Error(`Nothing provides ${name}: main.ts must`);
  });
}

export type { Actor };

/** Makes `use`: services are made at their first use, and kept in `made`; what is there already is taken as it is. */
export function services(made: Map<Service<unknown>, unknown>): (app: App) => App['use'] {
  return (app) => (service) => {
    if (!made.has(service)) made.set(service, service.make(app));
    return made.get(service) as never;
  };
}
