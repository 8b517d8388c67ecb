import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { RateLimited } from '#kernel/errors.ts';
import { parse } from '#kernel/input.ts';
import { Llm } from '#kernel/llm.ts';
import { ExtractorUnavailable } from '../../../integrations/extractors/index.ts';
import { documentModelSet } from '../events.ts';
import { NewModelUse } from '../model.ts';
import { can } from '../policy.ts';
import type { Written } from './shared.ts';

const dayMs = 24 * 3600 * 1000;

/** Whether documents of a workspace are told to the server's language model. The only writer of document_model_setting. */
export const ModelUse = service('the model and documents', (app) => ({
  /** @throws {ValidationError} {NotFound} {Forbidden} */
  async set(actor: Actor, raw: unknown): Promise<Written> {
    const { workspaceId, allowed } = parse(NewModelUse, raw);
    authorize(actor, can.setDocumentModel, workspaceId);
    return app.transact(actor, async (tx) => {
      // One at a time, so that the events tell the order.
      await tx.db.$queryRaw`select 1 from workspace where id = ${workspaceId}::uuid for no key update`;
      if ((await this.isAllowed(tx.db, workspaceId)) === allowed) return { id: workspaceId, workspaceId, event: null };
      await tx.db.documentModelSetting.upsert({
        where: { workspaceId },
        create: { workspaceId, allowed },
        update: { allowed },
      });
      const event = tx.append({ type: documentModelSet, workspaceId, subjectId: workspaceId, data: { allowed } });
      return { id: workspaceId, workspaceId, event };
    });
  },

  async isAllowed(db: Pick<App['db'], 'documentModelSetting'>, workspaceId: string): Promise<boolean> {
    return (await db.documentModelSetting.findUnique({ where: { workspaceId } }))?.allowed ?? false;
  },

  /** @throws {ExtractorUnavailable} the workspace does not allow it */
  async requireAllowed(db: Pick<App['db'], 'documentModelSetting'>, workspaceId: string): Promise<void> {
    if (!(await this.isAllowed(db, workspaceId)))
      throw new ExtractorUnavailable(
        'The workspace does not allow that its documents are told to a language model: setDocumentModel does.',
      );
  },

  /** @throws {RateLimited} the workspace has had as many extractions by the model within 24 hours as it may */
  async requireRoom(db: Pick<App['db'], 'extractionJob'>, workspaceId: string, exceptId?: string): Promise<void> {
    const others = exceptId ? { id: { not: exceptId } } : {};
    const where = {
      ...others,
      extractor: 'MODEL',
      run: { workspaceId, createdAt: { gt: new Date(Date.now() - dayMs) } },
    } as const;
    const { daily } = app.use(Llm);
    if ((await db.extractionJob.count({ where })) < daily) return;
    const oldest = await db.extractionJob.findFirst({
      where,
      orderBy: { run: { createdAt: 'asc' } },
      select: { run: { select: { createdAt: true } } },
    });
    const again = new Date((oldest?.run.createdAt.getTime() ?? Date.now()) + dayMs);
    throw new RateLimited(again, `The model is asked for ${daily} extractions of a workspace a day.`);
  },
}));
