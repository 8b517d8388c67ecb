import { setTimeout as delay } from 'node:timers/promises';
import type { SSMClient, SSMClientConfig } from '@aws-sdk/client-ssm';
import { InstanceUnavailable, kindOf, saidBy } from './errors.ts';

export interface CommandsOptions {
  readonly instanceId: string;
  readonly region: string;
  /** In place of the region's own, for instance a VPC endpoint. */
  readonly endpoint?: string | undefined;
  /** Default: those that the SDK finds (environment, files, web identity, container, instance). */
  readonly credentials?: SSMClientConfig['credentials'];
  /** First wait before a command is asked for, milliseconds; each is half as long again, up to `maxWaitMs`. */
  readonly firstWaitMs?: number;
  readonly maxWaitMs?: number;
  /** How long a command may take from its sending on, milliseconds. */
  readonly withinMs?: number;
}

export interface Commands {
  /** What SSM knows of the instance. @throws Error that says what is wrong with it */
  describe(): Promise<{ readonly address: string | null }>;
  /**
   * Executes a script as root, with /bin/sh, and gives what it wrote: 24,000 characters at most, the rest is cut by SSM.
   * It may be executed twice. Both are in the history of commands of the account for 30 days: no secret may be in them.
   * @throws {InstanceUnavailable}; the signal's reason, when the command is canceled
   */
  run(script: string, signal?: AbortSignal): Promise<string>;
  close(): void;
}

/** How many commands are sent at once: the agent of an instance executes five. */
const atOnce = 4;
/** An agent that has not begun in this time does not any more, seconds: the least that SSM takes. */
const deliveryS = 30;
/** A script that waits for longer is ended by the agent, seconds. */
const executionS = 120;
const pending = new Set(['Pending', 'InProgress', 'Delayed', 'Cancelling']);

/**
 * Commands for one instance, by SSM Run Command.
 * @see https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html
 * @see https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetCommandInvocation.html
 */
export async function createCommands(options: CommandsOptions): Promise<Commands> {
  const { instanceId, region, endpoint, credentials } = options;
  const { firstWaitMs = 150, maxWaitMs = 1_500, withinMs = 60_000 } = options;
  // Only here: a server without such an instance never loads the SDK.
  const sdk = await import('@aws-sdk/client-ssm');
  const client: SSMClient = new sdk.SSMClient({
    region,
    ...(endpoint ? { endpoint } : {}),
    ...(credentials ? { credentials } : {}),
    // Throttled calls are made again after growing waits.
    retryMode: 'standard',
    maxAttempts: 5,
    requestHandler: { connectionTimeout: 5_000, requestTimeout: 15_000 },
  });
  const slots = semaphore(atOnce);

  return {
    async describe() {
      let found;
      try {
        const answer = await client.send(
          new sdk.DescribeInstanceInformationCommand({ Filters: [{ Key: 'InstanceIds', Values: [instanceId] }] }),
        );
        found = answer.InstanceInformationList?.find((one) => one.InstanceId === instanceId);
      } catch (error) {
        throw new Error(`SSM in ${region} cannot be asked about the instance ${instanceId}: ${saidBy(error)}`, {
          cause: error,
        });
      }
      if (!found)
        throw new Error(
          `SSM in ${region} does not know the instance ${instanceId}: its agent must run, with a role that lets it register.`,
        );
      if (found.PlatformType !== undefined && found.PlatformType !== 'Linux')
        throw new Error(`The instance ${instanceId} runs ${found.PlatformType}: it must be Linux.`);
      if (found.PingStatus !== 'Online')
        throw new Error(`The agent of the instance ${instanceId} is ${found.PingStatus ?? 'away'}: it must be online.`);
      return { address: found.IPAddress ?? null };
    },

    run: (script, signal) => slots(() => execute(script, signal), signal),

    close: () => client.destroy(),
  };

  async function execute(script: string, signal?: AbortSignal): Promise<string> {
    const until = performance.now() + withinMs;
    let id: string;
    try {
      // Not given up half way: what was sent could not be canceled then.
      const sent = await client.send(
        new sdk.SendCommandCommand({
          InstanceIds: [instanceId],
          DocumentName: 'AWS-RunShellScript',
          Comment: 'Switchyard',
          Parameters: { commands: [script], executionTimeout: [String(executionS)] },
          TimeoutSeconds: deliveryS,
        }),
      );
      id = sent.Command?.CommandId ?? '';
      if (id === '') throw new Error('SSM gave the command no id');
    } catch (error) {
      throw new InstanceUnavailable(`SSM did not take a command${kindOf(error)}`, `${instanceId}: ${saidBy(error)}`, { cause: error }); // prettier-ignore
    }
    try {
      return await outcomeOf(id, until, signal);
    } catch (error) {
      if (signal?.aborted || performance.now() > until) await cancel(id);
      throw error;
    }
  }

  async function outcomeOf(id: string, until: number, signal?: AbortSignal): Promise<string> {
    for (let waitMs = firstWaitMs; ; waitMs = Math.min(waitMs * 1.5, maxWaitMs)) {
      await delay(waitMs, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
      try {
        const found = await client.send(
          new sdk.GetCommandInvocationCommand({ CommandId: id, InstanceId: instanceId }),
          signal ? { abortSignal: signal } : {},
        );
        const status = found.Status ?? 'Pending';
        if (status === 'Success') return found.StandardOutputContent ?? '';
        if (!pending.has(status)) {
          const said = (found.StandardErrorContent ?? '').trim().slice(0, 300);
          throw new InstanceUnavailable(
            'a command on the instance failed',
            `${found.StatusDetails ?? status}: ${said}`,
          );
        }
      } catch (error) {
        signal?.throwIfAborted();
        // It is known everywhere a moment after it was sent; and one that is throttled is asked for again.
        if (!mayPass(error)) {
          if (error instanceof InstanceUnavailable) throw error;
          throw new InstanceUnavailable(`SSM does not tell of a command${kindOf(error)}`, `${instanceId}: ${saidBy(error)}`, { cause: error }); // prettier-ignore
        }
      }
      if (performance.now() > until)
        throw new InstanceUnavailable(`a command on the instance took longer than ${Math.round(withinMs / 1000)} s`);
    }
  }

  /** It may have ended, and an instance that does not hear cannot be helped: what it began ends itself. */
  async function cancel(id: string): Promise<void> {
    await client
      .send(new sdk.CancelCommandCommand({ CommandId: id, InstanceIds: [instanceId] }))
      .catch(() => undefined);
  }
}

const mayPass = (error: unknown): boolean =>
  error instanceof Error &&
  (['InvocationDoesNotExist', 'ThrottlingException', 'TooManyRequestsException', 'InternalServerError', 'TimeoutError'].includes(error.name) || // prettier-ignore
    (error as { $retryable?: unknown }).$retryable !== undefined);

/** Does so much at once, in the order of asking. */
function semaphore(size: number) {
  let free = size;
  const waiting: (() => void)[] = [];
  return async <T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      signal?.throwIfAborted();
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free += 1;
    }
  };
}
