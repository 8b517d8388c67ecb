/** Rejects when something that the server needs does not work. */
export type Check = () => Promise<void>;

export interface HealthReport {
  readonly status: 'ok' | 'failing' | 'stopping';
  readonly checks: Readonly<Record<string, { readonly ok: boolean; readonly latencyMs: number }>>;
}

const timeoutMs = 3000;

/** Runs all checks at once. What exactly fails is in the log of the check's owner, not in the answer to anybody. */
export async function health(checks: Readonly<Record<string, Check>>, stopping: boolean): Promise<HealthReport> {
  const entries = await Promise.all(
    Object.entries(checks).map(async ([name, check]) => {
      const begun = performance.now();
      const ok = await Promise.race([
        check().then(
          () => true,
          () => false,
        ),
        new Promise<boolean>((resolve) => setTimeout(() => resolve(false), timeoutMs).unref()),
      ]);
      return [name, { ok, latencyMs: Math.round(performance.now() - begun) }] as const;
    }),
  );
  const ok = entries.every(([, { ok: good }]) => good);
  return { status: stopping ? 'stopping' : ok ? 'ok' : 'failing', checks: Object.fromEntries(entries) };
}
