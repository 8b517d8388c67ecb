import './kernel/auth/schema.ts';
import './kernel/audit/schema.ts';
import './kernel/live/schema.ts';
import './kernel/inbox/schema.ts';
import './kernel/mail/schema.ts';
import './kernel/storage/schema.ts';
import './kernel/rates/schema.ts';
import './kernel/runs/schema.ts';
import './domains.ts';
import { builder } from './kernel/graphql/builder.ts';

/** The whole GraphQL schema. `schema.graphql` is its print. */
export const schema = builder.toSchema();
