import { DomainError } from '../errors.ts';

/** A step took longer than it may. */
export class StepTimedOut extends DomainError {
  readonly code = 'STEP_TIMED_OUT';
  constructor(step: string, timeoutS: number) {
    super(`The step ${step} took longer than ${timeoutS} s.`);
  }
}

/** The run as a whole took longer than it may. */
export class DeadlineExceeded extends DomainError {
  readonly code = 'DEADLINE_EXCEEDED';
  constructor() {
    super('The deadline passed.');
  }
}

/** Somebody told the run to stop. The reason that a canceled run's signal carries. */
export class RunCanceled extends Error {
  constructor() {
    super('The run was canceled.');
  }
}

/** This execution no longer owns its run: another worker does, or the lease could not be renewed. It must stop. */
export class Fenced extends Error {
  constructor(runId: string) {
    super(`This worker no longer owns run ${runId}.`);
  }
}

/** This process is stopping: the run is handed back to the queue. */
export class WorkerStopping extends Error {
  constructor() {
    super('The worker is stopping.');
  }
}
