import './events.ts';
import './policy.ts';
import './schema/documents.ts';
import './schema/configurations.ts';
import './schema/jobs.ts';
import './schema/tables.ts';
import './schema/corrections.ts';
import './schema/exports.ts';

export { startDocuments } from './service/index.ts';
