import './schema.ts';

export { webhookRoutes } from './routes.ts';
export { connectGitHub } from './service/index.ts';
