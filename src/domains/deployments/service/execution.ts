import { setTimeout as delay } from 'node:timers/promises';
import type { Application } from '#prisma';
import type { RunContext, StepContext } from '#kernel/runs/context.ts';
import { DriverUnavailable } from '../../../integrations/docker/index.ts';
import type { DeploymentInput } from '../model.ts';
import { DeploymentSettings, userSlotOf } from './applications.ts';
import { Environments } from './environment.ts';

/** The execution of a deployment. */
export type Context = RunContext<DeploymentInput>;

/** Read for each part that needs them: a step has no other way to hand them on than the database. */
export async function variablesOf({ app, input, run }: Context) {
  const { environmentVersion } = await app.db.deployment.findUniqueOrThrow({ where: { id: run.id } });
  return app.use(Environments).open(input.applicationId, environmentVersion);
}

export const makerOf = ({ run, hold }: Context, application: Application) => ({
  applicationId: application.id,
  userSlot: userSlotOf(application),
  runId: run.id,
  attempt: hold.attempt,
});

/** Does it again while the driver is away: an engine that is being restarted does not fail a deployment. */
export async function patiently<T>({ app }: Context, step: StepContext, work: () => Promise<T>): Promise<T> {
  const { driverPatienceS } = app.use(DeploymentSettings);
  const until = Date.now() + driverPatienceS * 1000;
  for (let told = false; ;) {
    try {
      return await work();
    } catch (error) {
      step.signal.throwIfAborted();
      if (!(error instanceof DriverUnavailable) || Date.now() > until) throw error;
      if (!told) await step.log(`${error.message} Waiting for it, ${driverPatienceS} s at most.`, 'SYSTEM', 'WARN');
      told = true;
      await delay(500, undefined, { signal: step.signal });
    }
  }
}

export function noneWhenAway(error: unknown): null {
  if (error instanceof DriverUnavailable) return null;
  throw error;
}
