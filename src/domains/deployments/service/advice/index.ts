import { z } from 'zod';
import type { ModelAdvice } from '#prisma';
import { service } from '#kernel/app.ts';
import { system, type Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import type { Appended } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineJob, type JobContext } from '#kernel/jobs/define.ts';
import { Llm, LlmFailed } from '#kernel/llm.ts';
import { createRedactor } from '#kernel/redact.ts';
import { isTerminal } from '#kernel/runs/model.ts';
import { deploymentAdvised, modelAdviceSet } from '../../events.ts';
import { can } from '../../policy.ts';
import { Environments, secretsOf } from '../environment.ts';
import { watchDeployments } from '../ports.ts';
import { byModel } from './asked.ts';
import { factsOf, type Advised, type Facts } from './facts.ts';
import { byRules } from './rules.ts';

/** How long what was deployed has served when it is looked at again, with figures. */
const secondLookMs = 15 * 60_000;
/** How often the model is asked about one deployment. */
const attempts = 4;

const NewModelAdvice = z.object({ workspaceId: z.string(), allowed: z.boolean() });

/** Advice on deployments. The only writer of advice, recommendation and advice_setting. */
export const Advice = service('advice', (app) => ({
  /**
   * Looks at a deployment that is over, and keeps what the rules say, in place of what was said before. Nobody is waited
   * for: what is to be asked of the model is queued.
   * @param final whether it is the last look: what was deployed is looked at again when it has served for a while
   */
  async make(deploymentId: string, { final }: { readonly final: boolean }): Promise<void> {
    const facts = await factsOf(app, deploymentId);
    if (!facts) return;
    const why = await this.whyNot(facts, deploymentId, final);
    if (why) return this.keep(deploymentId, facts, { state: why, reason: null, ofModel: [], final });
    await this.keep(deploymentId, facts, { state: 'LATER', reason: null, ofModel: [], final: false, ask: true });
  },

  /**
   * Asks the model about a deployment, and keeps what it says beside what the rules say. Rejects when it may answer later,
   * and `again` says that it is asked then.
   */
  async ask(deploymentId: string, { again }: { readonly again: boolean }, signal: AbortSignal): Promise<void> {
    const facts = await factsOf(app, deploymentId);
    if (!facts) return;
    const keep = (state: ModelAdvice, reason: string | null, ofModel: readonly Advised[] = []) =>
      this.keep(deploymentId, facts, { state, reason, ofModel, final: true });
    const { model } = app.use(Llm);
    const why = await this.whyNot(facts, deploymentId, true);
    if (!model || why) return keep(why ?? 'OFF', null);
    const variables = await app.use(Environments).open(facts.applicationId, facts.environmentVersion);
    // All values, not only those that are called sensitive: what is told leaves the server.
    const redactor = createRedactor([...variables.map(({ value }) => value), ...secretsOf(variables)]);
    try {
      await keep('ANSWERED', null, await byModel(model, facts, redactor, signal));
    } catch (error) {
      if (!(error instanceof LlmFailed)) throw error;
      app.log.warn({ deploymentId, reason: error.reason }, 'the language model gave no advice');
      await keep('FAILED', error.message.slice(0, 300));
      if (error.mayPass && again) throw error;
    }
  },

  /** Why the model is not asked about a deployment now; null: it is. */
  async whyNot({ workspaceId }: Facts, deploymentId: string, final: boolean): Promise<ModelAdvice | null> {
    const { model, daily } = app.use(Llm);
    if (!model) return 'OFF';
    const setting = await app.db.adviceSetting.findUnique({ where: { workspaceId } });
    if (!setting?.modelAllowed) return 'NOT_ALLOWED';
    if (!final) return 'LATER';
    return (await this.asked(workspaceId, deploymentId)) >= daily ? 'LIMITED' : null;
  },

  /** About how many other deployments of a workspace the model was asked within 24 hours. */
  async asked(workspaceId: string, exceptId: string): Promise<number> {
    // By the log: of applications that were removed since it was asked as well.
    const [row] = await app.db.$queryRaw<{ asked: number }[]>`
      select count(distinct subject_id)::int asked from event
      where workspace_id = ${workspaceId}::uuid and type = ${deploymentAdvised.name} and subject_id <> ${exceptId}::uuid
        and at > now() - interval '24 hours' and data->>'model' in ('ANSWERED', 'FAILED')`;
    return row?.asked ?? 0;
  },

  /** Writes what there is to say. */
  async keep(
    deploymentId: string,
    facts: Facts,
    said: {
      readonly state: ModelAdvice;
      readonly reason: string | null;
      readonly ofModel: readonly Advised[];
      readonly final: boolean;
      /** Whether the model is asked next. */
      readonly ask?: boolean;
    },
  ): Promise<void> {
    const name = app.use(Llm).model?.name.slice(0, 200) ?? '';
    const all = [
      ...byRules(facts).map((one) => ({ ...one, source: 'RULES' as const, madeBy: one.rule })),
      ...said.ofModel.map((one) => ({ ...one, source: 'MODEL' as const, madeBy: name })),
    ];
    await app.transact(system, async (tx) => {
      // It may have been removed meanwhile.
      const there = await tx.db.$queryRaw<
        unknown[]
      >`select 1 from deployment where id = ${deploymentId}::uuid for key share`;
      if (there.length === 0) return;
      // Jobs can come late: the last look is not replaced by the first one.
      if (!said.final && (await tx.db.advice.count({ where: { deploymentId, isFinal: true } })) > 0) return;
      const data = { madeAt: new Date(), isFinal: said.final, model: said.state, modelReason: said.reason };
      await tx.db.advice.upsert({ where: { deploymentId }, create: { deploymentId, ...data }, update: data });
      await tx.db.recommendation.deleteMany({ where: { deploymentId } });
      await tx.db.recommendation.createMany({
        data: all.map(({ severity, title, text, evidence, source, madeBy }) => ({
          id: newId(),
          deploymentId,
          source,
          madeBy,
          severity,
          title: title.slice(0, 200),
          text: text.slice(0, 2000),
          evidence: evidence.map((one) => ({ ...one })),
        })),
      });
      tx.append({
        type: deploymentAdvised,
        workspaceId: facts.workspaceId,
        subjectId: deploymentId,
        data: { recommendations: all.length, model: said.state },
      });
      if (said.ask) await app.jobs.enqueue(tx, askJob, { workspaceId: facts.workspaceId, deploymentId });
    });
  },

  /**
   * Says whether what is known of a workspace's deployments may be told to the server's language model.
   * @throws {ValidationError} {NotFound} {Forbidden}
   */
  async allowModel(actor: Actor, raw: unknown): Promise<{ workspaceId: string; event: Appended }> {
    const { workspaceId, allowed } = parse(NewModelAdvice, raw);
    if (!isId(workspaceId)) throw new NotFound('Workspace', workspaceId);
    authorize(actor, can.setModelAdvice, workspaceId);
    return app.transact(actor, async (tx) => {
      const data = { modelAllowed: allowed };
      await tx.db.adviceSetting.upsert({ where: { workspaceId }, create: { workspaceId, ...data }, update: data });
      const event = tx.append({ type: modelAdviceSet, workspaceId, subjectId: workspaceId, data: { allowed } });
      return { workspaceId, event };
    });
  },

  /** Whether these workspaces allow it, in their order. */
  async allowed(workspaceIds: readonly string[]): Promise<boolean[]> {
    const rows = await app.db.adviceSetting.findMany({
      where: { workspaceId: { in: [...workspaceIds] }, modelAllowed: true },
      select: { workspaceId: true },
    });
    const those = new Set(rows.map((row) => row.workspaceId));
    return workspaceIds.map((id) => those.has(id));
  },
}));

const adviseJob = defineJob({
  name: 'deployments.advise',
  payload: z.object({ workspaceId: z.string(), deploymentId: z.string(), final: z.boolean() }),
  attempts: 4,
  retryDelayS: 30,
  timeoutS: 180,
  workspaceOf: ({ workspaceId }) => workspaceId,
  handle: ({ deploymentId, final }, { app }) => app.use(Advice).make(deploymentId, { final }),
});

/** A queue of its own: a model that hangs keeps nobody from what the rules say. */
const askJob = defineJob({
  name: 'deployments.askModel',
  payload: z.object({ workspaceId: z.string(), deploymentId: z.string() }),
  attempts,
  retryDelayS: 30,
  timeoutS: 180,
  workspaceOf: ({ workspaceId }) => workspaceId,
  handle: ({ deploymentId }, { app, signal, attempt }: JobContext) =>
    app.use(Advice).ask(deploymentId, { again: attempt < attempts }, signal),
});

// One that failed is looked at once. What was deployed is looked at again when there are figures of it.
watchDeployments(async (app, tx, { id: deploymentId, workspaceId, status }) => {
  if (!isTerminal(status) || status === 'CANCELED') return;
  const payload = { workspaceId, deploymentId };
  const serves = status === 'SUCCEEDED';
  await app.jobs.enqueue(tx, adviseJob, { ...payload, final: !serves });
  if (serves)
    await app.jobs.enqueue(
      tx,
      adviseJob,
      { ...payload, final: true },
      { startAfter: new Date(Date.now() + secondLookMs) },
    );
});
