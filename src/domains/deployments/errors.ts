import { DomainError } from '#kernel/errors.ts';

/** No host that can run applications shows a sign of life. */
export class NoHost extends DomainError {
  readonly code = 'NO_HOST';
  constructor() {
    super('No host that can run applications is alive. Start a worker with the process driver.');
  }
}

/** No host that is alive has the driver that the application asks for. */
export class DriverNotOffered extends DomainError {
  readonly code = 'DRIVER_NOT_OFFERED';
  constructor(driver: string) {
    super(`No host that is alive runs applications with the driver ${driver}.`);
  }
}

/** The host has the driver that runs this application turned off. */
export class DriverOff extends DomainError {
  readonly code = 'DRIVER_OFF';
  constructor(driver: string) {
    super(`The driver ${driver}, which runs this application, is turned off on its host.`);
  }
}

/** The code of a stranger could get at what it should not. */
export class NotConfined extends DomainError {
  readonly code = 'NOT_CONFINED';
}

/** The environment was changed since the caller looked. */
export class EnvironmentConflict extends DomainError {
  readonly code = 'ENVIRONMENT_CONFLICT';
  readonly currentVersion: number;
  constructor(currentVersion: number) {
    super(`The environment was changed: its version is ${currentVersion} now.`);
    this.currentVersion = currentVersion;
  }
}

/** There is no release that could be brought back. */
export class NothingToRestore extends DomainError {
  readonly code = 'NOTHING_TO_RESTORE';
}

/** A new instance did not become healthy. */
export class Unhealthy extends DomainError {
  readonly code = 'UNHEALTHY';
}

export type Quota = 'APPLICATIONS' | 'RETAINED_RELEASES' | 'DISK';

/** The workspace may not have more. */
export class QuotaExceeded extends DomainError {
  readonly code = 'QUOTA_EXCEEDED';
  readonly quota: Quota;
  readonly limit: number;
  /** What there is, or was asked for. */
  readonly actual: number;
  constructor(quota: Quota, limit: number, actual: number) {
    const what = {
      APPLICATIONS: 'applications',
      RETAINED_RELEASES: 'retained releases of an application',
      DISK: `MiB of disk for its applications, and has ${actual}`,
    };
    super(`The workspace may have ${limit} ${what[quota]}.`);
    this.quota = quota;
    this.limit = limit;
    this.actual = actual;
  }
}

/** Findings of the security scan stop the deployment; the message names the worst of them. */
export class BlockedByFindings extends DomainError {
  readonly code = 'BLOCKED_BY_FINDINGS';
}

/** A scanner did not look at everything, and the policy of the application or the server wants that. */
export class ScanIncomplete extends DomainError {
  readonly code = 'SCAN_INCOMPLETE';
}
