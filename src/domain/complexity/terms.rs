//! The default lists, in English, German, French, Spanish, Portuguese, Italian, Russian, Chinese, Japanese, Korean and Arabic.
//! Moderate on purpose: words that mark a field or a task wherever they stand, none that is common in everyday talk. Words that English
//! shares with others (`algorithm*`, `matrix`) stand once; comparison ignores case and diacritics.

/// Words of technical, mathematical, legal, medical and financial work.
#[rustfmt::skip] // one term a line would be pages
pub const TECHNICAL: &[&str] = &[
    // Computing, mostly the same word in every language.
    "algorithm*", "algoritm*", "algorithme*", "api", "apis", "async*", "backend", "big-o", "compiler*", "concurren*",
    "cuda", "database*", "datenbank*", "deadlock*", "debug*", "distributed", "docker", "encryption", "framework*",
    "frontend", "function*", "funktion*", "gpu", "graphql", "hash map", "hashmap", "http*", "index*", "java",
    "javascript", "json", "kernel", "kubernetes", "linux", "machine learning", "memory leak*", "microservice*",
    "mutex", "neural network*", "oauth*", "parser*", "postgres*", "protocol*", "python", "race condition*",
    "recurs*", "refactor*", "regex*", "rust", "schema*", "scalab*", "sharding", "sql", "tcp", "thread*", "tokeniz*",
    "transaction*", "typescript", "unit test*", "consensus", "consistency", "fault toleran*", "fault-toleran*",
    "latency", "throughput", "cache*", "raft", "paxos",
    // Mathematics and science.
    "bayes*", "calculus", "covariance", "derivative*", "differential*", "eigen*", "entropy", "equation*", "fourier",
    "gradient*", "hypothes*", "integral*", "isomorph*", "lemma", "linear algebra", "logarithm*", "matrix",
    "matrices", "polynomial*", "probabilit*", "quantum", "regression*", "statistic*", "stochastic*", "theorem*",
    "topolog*", "variance", "thermodynamic*", "molecul*", "enzym*", "genom*", "protein*", "relativity",
    // Law, medicine, money.
    "liability", "jurisdiction", "statute*", "plaintiff*", "indemnif*", "compliance", "gdpr", "diagnos*",
    "patholog*", "pharmac*", "etiology", "contraindicat*", "amortiz*", "derivatives", "hedging", "volatility",
    "arbitrage", "cash flow*",
    // German.
    "nebenlaufig*", "verteilte*", "verschlusselung", "speicherleck*", "laufzeit*", "schnittstelle*", "gleichung*",
    "wahrscheinlichkeit*", "ableitung*", "beweis*", "satz von", "matrizen", "haftung*", "gesetz*", "vertrag*",
    "datenschutz*", "quantenmechanik", "maschinelles lernen", "warteschlange*", "quellcode",
    // French.
    "base de donnees", "bases de donnees", "apprentissage automatique", "chiffrement", "reparti*", "fil d'execution",
    "concurrence", "derivee*", "equation*", "probabilite*", "theoreme*", "matrice*", "quantique*",
    "responsabilite civile", "jurisprudence", "fonction*",
    // Spanish, Portuguese and Italian.
    "base de datos", "bases de datos", "banco de dados", "aprendizaje automatico", "aprendizado de maquina",
    "cifrado", "criptograf*", "distribuid*", "distribuit*", "concurrencia", "concorrencia", "ecuacion*", "equacao*",
    "equazion*", "derivada*", "derivata", "probabilid*", "probabilita", "teorema*", "matriz*", "cuantic*",
    "quantistic*", "funcion*", "funcao*", "funzion*", "jurisprudencia", "responsabilidad civil", "algoritmo*",
    // Russian.
    "алгоритм*", "база данных", "базы данных", "базе данных", "баз данных", "машинн*", "нейрон*", "распределен*",
    "поток*", "параллельн*", "шифрован*", "функци*", "уравнен*", "вероятност*", "производн*", "интеграл*", "теорем*",
    "матриц*", "квантов*", "транзакц*", "рекурси*", "компилятор*", "юридическ*", "диагноз*", "протокол*", "сервер*",
    "согласованност*",
    // Chinese, simplified and traditional.
    "算法", "演算法", "数据库", "資料庫", "函数", "函數", "编译", "編譯", "分布式", "分散式", "并发", "並行", "线程", "執行緒", "加密", "机器学习", "機器學習",
    "神经网络", "神經網路", "深度学习", "微服务", "缓存", "接口", "递归", "遞迴", "方程", "概率", "機率", "导数", "積分", "积分", "矩阵", "矩陣", "定理",
    "量子", "统计", "統計", "法律责任", "诊断", "代码", "程式", "协议", "一致性", "事务", "架构",
    // Japanese.
    "アルゴリズム", "データベース", "関数", "コンパイラ", "分散システム", "並行", "スレッド", "暗号化", "機械学習", "ニューラルネットワーク", "マイクロサービス", "キャッシュ",
    "再帰", "方程式", "確率", "微分", "行列", "量子", "プロトコル", "トランザクション", "整合性", "コード", "サーバ", "設計",
    // Korean.
    "알고리즘", "데이터베이스", "함수", "컴파일러", "분산", "동시성", "스레드", "암호화", "머신러닝", "기계 학습", "신경망", "캐시", "재귀", "방정식", "확률", "미분",
    "적분", "행렬", "정리를", "양자", "프로토콜", "트랜잭션", "일관성", "서버",
    // Arabic.
    "خوارزمي*", "الخوارزمي*", "قاعدة بيانات", "قاعدة البيانات", "قواعد البيانات", "التعلم الآلي", "الموزع*", "تشفير",
    "معادل*", "المعادل*", "احتمال*", "مصفوف*", "نظرية", "كمومي*", "برمج*",
];

/// What asks for thought or for much text.
#[rustfmt::skip] // one term a line would be pages
pub const DEMANDS: &[&str] = &[
    // English.
    "analyze*", "analyse", "analysis", "architect*", "argue", "assess*", "compare", "comprehensive*", "critique*",
    "derive", "design a*", "design the", "detailed", "edge case*", "essay", "evaluate*", "explain why", "formal*",
    "implement*", "in depth", "in-depth", "justify", "optimi*", "pros and cons", "proof*", "prove", "rigorous*",
    "root cause", "step by step", "step-by-step", "strateg*", "synthesi*", "thorough*", "trade-off*", "tradeoff*",
    "business plan", "research",
    // German.
    "analysiere*", "ausfuhrlich*", "begrunde*", "bewerte*", "beweise*", "detailliert*", "entwirf", "entwerfe*",
    "entwickle*", "implementiere*", "erortere*", "grundlich*", "optimiere*", "schritt fur schritt", "umfassend*",
    "vergleich*", "vor- und nachteile", "abwag*", "herleit*", "leite her",
    // French.
    "analysez", "analyser", "approfondi*", "comparez", "comparer", "concevez", "concevoir", "demontre*", "detaille*",
    "etape par etape", "evaluez", "evaluer", "implemente*", "justifie*", "optimise*", "prouve*",
    "avantages et inconvenients",
    // Spanish, Portuguese and Italian.
    "analiza*", "analizz*", "compara", "comparar", "compare", "confronta*", "demuestr*", "demonstr*", "dimostra*",
    "disen*", "detallad*", "detalhad*", "dettagliat*", "evalua*", "avalie*", "exhaustiv*", "justifica*",
    "giustifica*", "implementa*", "optimiza*", "otimiz*", "ottimizz*", "paso a paso", "passo a passo", "projete",
    "progetta*", "ventajas y desventajas",
    // Russian.
    "анализ*", "проанализ*", "докажи*", "доказательств*", "обоснуй*", "обоснован*", "оптимиз*", "оцени*", "подробн*",
    "пошагов*", "шаг за шагом", "разработай*", "реализ*", "спроектир*", "сравни*", "всесторонн*", "исследу*",
    // Chinese, simplified and traditional.
    "分析", "比较", "比較", "证明", "證明", "推导", "推導", "设计", "設計", "实现", "實作", "优化", "優化", "评估", "評估", "详细", "詳細", "逐步",
    "一步一步", "深入", "全面", "优缺点", "優缺點", "论述", "权衡", "權衡",
    // Japanese.
    "比較", "証明", "導出", "設計し", "実装", "最適化", "評価", "詳細", "詳しく", "段階的", "ステップバイステップ", "考察", "論じ", "トレードオフ", "検討",
    // Korean.
    "분석", "비교", "증명", "유도하", "설계", "구현", "최적화", "평가", "자세히", "상세", "단계별", "심층", "장단점", "논하",
    // Arabic.
    "حلل", "تحليل", "قارن", "مقارنة", "أثبت", "برهن", "صمم", "تصميم", "بالتفصيل", "مفصل*", "خطوة بخطوة", "قيم",
    "نفذ",
];

/// Pieces of source code and markup that prose doesn't hold.
#[rustfmt::skip] // one term a line would be pages
pub const CODE_MARKERS: &[&str] = &[
    "```", "#include", "#!/", "#define", "();", ");", "() {", ") {", "});", "=> {", "->", "::", "==", "!=", "&&",
    "||", "+=", "</", "/>", "<?php", "<div", "/*", "async fn", "async def", "catch (", "class=\"", "console.log",
    "const ", "create table", "def __", "def main", "else {", "elif ", "export default", "fn main", "for (",
    "from __", "func (", "function(", "if (", "impl ", "import {", "import java", "import numpy", "insert into",
    "int main", "let mut", "lambda ", "namespace ", "nullptr", "package main", "printf(", "public class",
    "public static", "pub fn", "pub struct", "select *", "self.", "self,", "std::", "struct ", "this.",
    "traceback (most", "try {", "typedef ", "using namespace", "void ", "while (", "println!", "print(", "f\"",
    "\": ", "\":{", "begin{", "\\frac", "$$",
];
