//! Prompts as people write them, with the complexity a person would give them and their length in tokens by `o200k_base`;
//! and two paragraphs of the Universal Declaration of Human Rights in many languages, likewise counted.

use crate::domain::complexity::Complexity::{self, Complex, Medium, Simple};

/// Complexity, language, tokens, text.
pub const PROMPTS: &[(Complexity, &str, u64, &str)] = &[
    (Simple, "English", 9, r#"Hi! What is the capital of France?"#),
    (Simple, "English", 17, r#"Thanks, that worked. Can you remind me when my meeting with Anna is tomorrow?"#),
    (Simple, "German", 18, r#"Hallo, wie spät ist es gerade in Tokio und wie wird morgen das Wetter in München?"#),
    (Simple, "French", 20, r#"Bonjour ! Peux-tu me traduire « bonne nuit » en italien, s’il te plaît ?"#),
    (
        Simple,
        "Spanish",
        17,
        r#"¿Me puedes recomendar una película divertida para ver con mis hijos este fin de semana?"#,
    ),
    (Simple, "Russian", 18, r#"Привет! Подскажи, пожалуйста, какой фильм посмотреть сегодня вечером с друзьями?"#),
    (Simple, "Chinese", 17, r#"你好，请问明天北京的天气怎么样？我需要带伞吗？"#),
    (Simple, "Japanese", 25, r#"こんにちは。今日の夕ご飯は何がいいですか？簡単に作れるものを教えてください。"#),
    (Simple, "Korean", 16, r#"안녕하세요! 내일 친구 생일인데 어떤 선물이 좋을까요?"#),
    (Simple, "Arabic", 16, r#"مرحبا، ما هي عاصمة اليابان وكم يبلغ عدد سكانها؟"#),
    (Simple, "Portuguese", 19, r#"Oi, tudo bem? Qual é a melhor época do ano para visitar o Rio de Janeiro?"#),
    (Simple, "Turkish", 21, r#"Merhaba, yarın İstanbul’da hava nasıl olacak, şemsiye almalı mıyım?"#),
    (Simple, "Hindi", 26, r#"नमस्ते, कृपया मुझे बताइए कि भारत की राजधानी क्या है और वहाँ का मौसम कैसा है?"#),
    (
        Medium,
        "English",
        26,
        r#"Write a Python function that parses a JSON array of transactions, groups them by customer and returns the totals. Include a unit test."#,
    ),
    (
        Medium,
        "German",
        26,
        r#"Schreibe mir eine Funktion in Python, die aus einer SQL-Datenbank alle Kunden liest und doppelte Einträge entfernt."#,
    ),
    (
        Medium,
        "French",
        29,
        r#"Explique comment fonctionne le chiffrement asymétrique et compare avec une base de données distribuée, à l’aide d’un exemple détaillé."#,
    ),
    (
        Medium,
        "Spanish",
        26,
        r#"Escribe una función en JavaScript que ordene una lista de productos por precio y explica paso a paso cómo funciona el algoritmo."#,
    ),
    (
        Medium,
        "Russian",
        29,
        r#"Напиши функцию на Python, которая читает данные из базы данных и строит отчёт по месяцам. Добавь подробные комментарии."#,
    ),
    (Medium, "Chinese", 26, r#"请用Python写一个函数，从数据库读取订单并按客户汇总金额，再加上单元测试和注释。"#),
    (Medium, "Japanese", 29, r#"データベースから注文を読み込んで顧客ごとに集計する関数をPythonで実装してください。"#),
    (Medium, "Korean", 27, r#"데이터베이스에서 주문을 읽어 고객별로 합계를 내는 함수를 파이썬으로 구현해 주세요."#),
    (
        Medium,
        "Italian",
        30,
        r#"Scrivi una funzione in Python che legga un database SQL e calcoli la media mobile; spiega passo per passo e in modo dettagliato."#,
    ),
    (
        Complex,
        "English",
        67,
        r#"Design a distributed rate limiter for a multi-region API with strong consistency. Compare token buckets with sliding windows, analyze the latency and fault tolerance of each, prove that no client can exceed its limit under network partitions, and discuss the trade-offs step by step. Include pseudo code for the consensus protocol and an estimate of the throughput per shard."#,
    ),
    (
        Complex,
        "German",
        76,
        r#"Entwirf eine verteilte Warteschlange mit genau einmaliger Zustellung. Vergleiche Raft und Paxos, begründe ausführlich die Wahl, analysiere das Verhalten bei Netzwerkpartitionen und beweise Schritt für Schritt, dass keine Nachricht verloren geht. Gehe dabei auf Nebenläufigkeit, Transaktionen, Latenz und Laufzeit des Algorithmus ein."#,
    ),
    (
        Complex,
        "French",
        73,
        r#"Démontrez étape par étape que l’algorithme de descente de gradient converge pour une fonction convexe, comparez-le aux méthodes de Newton, évaluez la complexité de chaque méthode et justifiez le choix du pas. Donnez les équations, les dérivées et les matrices utilisées, puis un exemple détaillé en Python."#,
    ),
    (
        Complex,
        "Spanish",
        62,
        r#"Diseña la arquitectura de un sistema distribuido de pagos con transacciones entre varias bases de datos. Analiza la consistencia, compara dos protocolos de consenso, evalúa las ventajas y desventajas de cada uno y demuestra paso a paso por qué no se pierde ningún pago ni siquiera cuando falla un servidor."#,
    ),
    (
        Complex,
        "Russian",
        83,
        r#"Спроектируй распределённую систему обработки транзакций. Сравни алгоритмы консенсуса Raft и Paxos, подробно обоснуй выбор, проанализируй поведение при сбоях сети и докажи шаг за шагом, что согласованность данных не нарушается. Приведи протокол обмена между серверами и оценку вероятности потери сообщений."#,
    ),
    (
        Complex,
        "Chinese",
        79,
        r#"请设计一个分布式事务系统的架构，比较Raft和Paxos两种共识算法的优缺点，分析网络分区时的一致性问题，逐步证明不会丢失任何消息，并详细推导吞吐量和延迟的概率模型。最后用代码实现核心协议，说明并发和缓存方面的权衡。"#,
    ),
    (
        Complex,
        "Japanese",
        109,
        r#"分散システムにおけるトランザクション処理のアーキテクチャを設計してください。RaftとPaxosのアルゴリズムを比較し、ネットワーク分断時の整合性を詳細に分析した上で、メッセージが失われないことを段階的に証明してください。プロトコルのコードも実装し、キャッシュと並行処理のトレードオフを考察してください。"#,
    ),
    (
        Complex,
        "Korean",
        68,
        r#"분산 트랜잭션 시스템의 구조를 설계하고 Raft와 Paxos 알고리즘의 장단점을 비교해 주세요. 네트워크 분할 시의 일관성을 자세히 분석하고 메시지가 유실되지 않음을 단계별로 증명한 뒤 프로토콜을 코드로 구현해 주세요."#,
    ),
    (
        Complex,
        "Arabic",
        73,
        r#"صمم نظاما موزعا لمعالجة المعاملات، وقارن بين خوارزميات الإجماع مثل Raft و Paxos، وقدم تحليل سلوك النظام عند انقطاع الشبكة بالتفصيل. برهن خطوة بخطوة أن قاعدة البيانات لا تفقد أي رسالة، مع نموذج احتمالي لزمن الاستجابة ومثال برمجي."#,
    ),
    (
        Medium,
        "Code",
        66,
        r#"Why does this not compile?

```rust
fn main() {
    let mut names = vec![String::from("a"), String::from("b")];
    for name in &names {
        if name == "a" {
            names.push(name.clone());
        }
    }
    println!("{names:?}");
}
```"#,
    ),
    (
        Medium,
        "Code",
        77,
        r#"{"model": "gpt-4.1", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.7, "max_tokens": 256, "stream": true, "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]}"#,
    ),
];

/// Language, tokens, text.
pub const DECLARATION: &[(&str, u64, &str)] = &[
    (
        "English",
        94,
        "Whereas recognition of the inherent dignity and of the equal and inalienable rights of all members of the human family is the foundation of freedom, justice and peace in the world,\nWhereas disregard and contempt for human rights have resulted in barbarous acts which have outraged the conscience of mankind, and the advent of a world in which human beings shall enjoy freedom of speech and belief and freedom from fear and want has been proclaimed as the highest aspiration of the common people,",
    ),
    (
        "German",
        113,
        "Da die Anerkennung der angeborenen Würde und der gleichen und unveräußerlichen Rechte aller Mitglieder der Gemeinschaft der Menschen die Grundlage von Freiheit, Gerechtigkeit und Frieden in der Welt bildet,\nda die Nichtanerkennung und Verachtung der Menschenrechte zu Akten der Barbarei geführt haben, die das Gewissen der Menschheit mit Empörung erfüllen, und da verkündet worden ist, dass einer Welt, in der die Menschen Rede‐ und Glaubensfreiheit und Freiheit von Furcht und Not genießen, das höchste Streben des Menschen gilt,",
    ),
    (
        "French",
        132,
        "Considérant que la reconnaissance de la dignité inhérente à tous les membres de la famille humaine et de leurs droits égaux et inaliénables constitue le fondement de la liberté, de la justice et de la paix dans le monde,\nConsidérant que la méconnaissance et le mépris des droits de l’homme ont conduit à des actes de barbarie qui révoltent la conscience de l’humanité et que l’avènement d’un monde où les êtres humains seront libres de parler et de croire, libérés de la terreur et de la misère, a été proclamé comme la plus haute aspiration de l’homme,",
    ),
    (
        "Spanish",
        129,
        "Considerando que la libertad, la justicia y la paz en el mundo tienen por base el reconocimiento de la dignidad intrínseca y de los derechos iguales e inalienables de todos los miembros de la familia humana;\nConsiderando que el desconocimiento y el menosprecio de los derechos humanos han originado actos de barbarie ultrajantes para la conciencia de la humanidad, y que se ha proclamado, como la aspiración más elevada del hombre, el advenimiento de un mundo en que los seres humanos, liberados del temor y de la miseria, disfruten de la libertad de palabra y de la libertad de creencias;",
    ),
    (
        "Polish",
        164,
        "ZWAŻYWSZY, że uznanie przyrodzonej godności oraz równych i niezbywalnych praw wszystkich członków wspólnoty ludzkiej jest podstawą wolności, sprawiedliwości i pokoju świata,\nZWAŻYWSZY, że nieposzanowanie i nieprzestrzeganie praw człowieka doprowadziło do aktów barbarzyństwa, które wstrząsnęły sumieniem ludzkości, i że ogłoszono uroczyście jako najwznioślejszy cel ludzkości dążenie do zbudowania takiego świata, w którym ludzie korzystać będą z wolności słowa i przekonań oraz z wolności od strachu i nędzy,",
    ),
    (
        "Finnish",
        151,
        "Kun ihmiskunnan kaikkien jäsenten luonnollisen arvon ja heidän yhtäläisten ja luovuttamattomien oikeuksiensa tunnustaminen on vapauden, oikeudenmukaisuuden ja rauhan perustana maailmassa,\nkun ihmisoikeuksia on väheksytty tai ne on jätetty huomiota vaille, on tapahtunut raakalaistekoja, jotka ovat järkyttäneet ihmiskunnan omaatuntoa, ja kun kansojen korkeimmaksi päämääräksi on julistettu sellaisen maailman luominen, missä ihmiset voivat vapaasti nauttia sanan ja uskon vapautta sekä elää vapaina pelosta ja puutteesta,",
    ),
    (
        "Turkish",
        128,
        "İnsanlık ailesinin bütün üyelerinde bulunan haysiyetin ve bunların eşit ve devir kabul etmez haklarının tanınması hususunun, hürriyetin, adaletin ve dünya barışının temeli olmasına,\nİnsan haklarının tanınmaması ve hor görülmesinin insanlık vicdanını isyana sevkeden vahşiliklere sebep olmuş bulunmasına, dehşetten ve yoksulluktan kurtulmuş insanların, içinde söz ve inanma hürriyetlerine sahip olacakları bir dünyanın kurulması en yüksek amaçları oralak ilan edilmiş bulunmasına,",
    ),
    (
        "Vietnamese",
        129,
        "Việc thừa nhận nhân phẩm vốn có, các quyền bình đẳng và không thể tách rời của mọi thành viên trong gia đình nhân loại là cơ sở cho tự do, công bằng và hoà bình trên thế giới,\nSự xâm phạm và coi thường nhân quyền đã dẫn đến những hành động tàn bạo xâm phạm tới lương tâm của nhân loại, và việc xây dựng một thế giới trong đó con người được tự do ngôn luận và tín ngưỡng, không còn phải chịu nỗi sợ hãi và cùng cực được coi là nguyện vọng cao cả nhất của loài người,",
    ),
    (
        "Indonesian",
        132,
        "Menimbang bahwa pengakuan atas martabat alamiah dan hak-hak yang sama dan mutlak dari semua anggota keluarga manusia adalah dasar kemerdekaan, keadilan dan perdamaian di dunia,\nMenimbang bahwa mengabaikan dan memandang rendah hak-hak asasi manusia telah mengakibatkan perbuatan-perbuatan bengis yang menimbulkan rasa kemarahan hati nurani umat manusia, dan terbentuknya suatu dunia tempat manusia akan mengecap kenikmatan kebebasan berbicara dan beragama serta kebebasan dari ketakutan dan kekurangan telah dinyatakan sebagai cita-cita tertinggi dari rakyat biasa,",
    ),
    (
        "Russian",
        130,
        "Принимая во внимание, что признание достоинства, присущего всем членам человеческой семьи, и равных и неотъемлемых прав их является основой свободы, справедливости и всеобщего мира; и\nпринимая во внимание, что пренебрежение и презрение к правам человека привели к варварским актам, которые возмущают совесть человечества, и что создание такого мира, в котором люди будут иметь свободу слова и убеждений и будут свободны от страха и нужды, провозглашено как высокое стремление людей; и",
    ),
    (
        "Ukrainian",
        141,
        "Беручи до уваги, що визнання гідності, яка властива всім членам людської сім'ї, і рівних та невід'ємних їх прав є основою свободі, справедливості та загального миру; і\nберучи до уваги, що зневажання і нехтування правами людини призвели до варварських актів, які обурюють совість людства, і що створення такого світу, в якому люди будуть мати свободу слова і переконань і будуть вільні від страху і нужди, проголошено як високе прагнення людей; і",
    ),
    (
        "Greek",
        194,
        "Επειδή η αναγνώριση της αξιοπρέπειας, που είναι σύμφυτη σε όλα τα μέλη της ανθρώπινης οικογένειας, καθώς και των ίσων και αναπαλλοτρίωτων δικαιωμάτων τους αποτελεί το θεμέλιο της ελευθερίας, της δικαιοσύνης και της ειρήνης στον κόσμο.\nΕπειδή η παραγνώριση και η περιφρόνηση των δικαιωμάτων του ανθρώπου οδήγησαν σε πράξεις βαρβαρότητας, που εξεγείρουν την ανθρώπινη συνείδηση, και η προοπτική ενός κόσμου όπου οι άνθρωποι θα είναι ελεύθεροι να μιλούν και να πιστεύουν, λυτρωμένοι από τον τρόμο και την αθλιότητα, έχει διακηρυχθεί ως η πιο υψηλή επιδίωξη του ανθρώπου.",
    ),
    (
        "Arabic",
        97,
        "لمّا كان الاعتراف بالكرامة المتأصلة في جميع أعضاء الأسرة البشرية وبحقوقهم المتساوية الثابتة هو أساس الحرية والعدل والسلام في العالم.\nولما كان تناسي حقوق الإنسان وازدراؤها قد أفضيا إلى أعمال همجية آذت الضمير الإنساني. وكان غاية ما يرنو إليه عامة البشر انبثاق عالم يتمتع فيه الفرد بحرية القول والعقيدة ويتحرر من الفزع والفاقة.",
    ),
    (
        "Hebrew",
        120,
        "הואיל והכרה בכבוד הטבעי אשר לכל בני משפחת האדם ובזכויותיהם השוות והבלתי נפקעות הוא יסוד החופש, הצדק והשלום בעולם.\nהואיל והזלזול בזכויות האדם וביזוין הבשילו מעשים פראיים שפגעו קשה במצפונה של האנושות; ובנין עולם, שבו ייהנו כל יצורי אנוש מחירות הדיבור והאמונה ומן החירות מפחד וממחסור, הוכרז כראש שאיפותיו של כל אדם.",
    ),
    (
        "Hindi",
        139,
        "चूंकि मानव परिवार के सभी सदस्यों के जन्मजात गौरव और समान तथा अविच्छिन्न अधिकार की स्वीकृति ही विश्व-शान्ति, न्याय और स्वतन्त्रता की बुनियाद है,\nचूंकि मानव अधिकारों के प्रति उपेक्षा और घृणा के फलस्वरूप ही ऐसे बर्बर कार्य हुए जिनसे मनुष्य की आत्मा पर अत्याचार किया गया, चूंकि एक ऐसी विश्व-व्यवस्था की उस स्थापना को ( जिसमें लोगों को भाषण और धर्म की आज़ादी तथा भय और अभाव से मुक्ति मिलेगी ) सर्वसाधारण के लिए सर्वोच्च आकांक्षा घोषित किया गया है,",
    ),
    (
        "Tamil",
        208,
        "மனிதக் குடும்பத்தினைச் சேர்ந்த யாவரதும் உள்ளார்ந்த மரியாதையையும், அவர்கள் யாவரதும் சமமான, மாற்றத்திற்குட்படுத்த முடியாத உரிமைகளையும் அங்கீகரித்தலே உலகத்தில் சுதந்திரம், நீதி, அமைதி என்பவற்றுக்கு அடிப்படையாகவுள்ளதாதலாலும்,\nமனித உரிமைகளை அவமதித்தலும் இகழ்தலும், மனிதகுலத்தின் மனசாட்சியை சீற்றத்திற்குள்ளாக்கியுள்ள காட்டுமிராண்டித்தனமான செயல்களுக்கு இடமளித்துள்ளதாதலாலும், பேச்சுச் சுதந்திரம், நம்பிக்கைச் சுதந்திரம், அச்சத்திலிருந்தும் வறுமையிலிருந்தும் விடுதலை ஆகியனவற்றை மனிதன் முழுமையாக அனுபவிக்கத்தக்க ஒரு உலகின் வருகையே சாதாரண மக்களின் மிகவுயர்ந்த குறிக்கோளாக எடுத்துச் சாற்றப்பட்டுள்ளதாதலாலும்,",
    ),
    (
        "Thai",
        201,
        "โดยที่การยอมรับนับถือเกียรติศักดิ์ประจำตัว และสิทธิเท่าเทียมกันและโอนมิได้ของบรรดา สมาชิก ทั้ง หลายแห่งครอบครัว มนุษย์เป็นหลักมูลเหตุแห่งอิสรภาพ ความยุติธรรม และสันติภาพในโลก\nโดยที่การไม่นำพาและการเหยียดหยามต่อสิทธิมนุษยชน ยังผลให้มีการหระทำอันป่าเถื่อน ซี่งเป็นการละเมิดมโนธรรมของมนุษยชาติอย่างร้ายแรง และใต้[ได้]มีการประกาศว่า ปณิธานสูงสุดของสามัญชนได้แก่ความต้องการให้มนุษย์มีชีวิตอยู่ในโลกด้วยอิสรภาพในการพูด และความเชื่อถือ และอิสรภาพพ้นจากความหวาดกลัวและความต้องการ",
    ),
    (
        "Korean",
        117,
        "모든 인류 구성원의 천부의 존엄성과 동등하고 양도할 수 없는 권리를 인정하는 것이 세계의 자유, 정의 및 평화의 기초이며,\n인권에 대한 무시와 경멸이 인류의 양심을 격분시키는 만행을 초래하였으며, 인간이 언론과 신앙의 자유, 그리고 공포와 결핍으로부터의 자유를 누릴 수 있는 세계의 도래가 모든 사람들의 지고한 열망으로서 천명되어 왔으며,",
    ),
    (
        "Chinese",
        115,
        "鉴于对人类家庭所有成员的固有尊严及其平等的和不移的权利的承认,乃是世界自由、正义与和平的基础,\n鉴于对人权的无视和侮蔑已发展为野蛮暴行,这些暴行玷污了人类的良心,而一个人人享有言论和信仰自由并免予恐惧和匮乏的世界的来临,已被宣布为普通人民的最高愿望,",
    ),
    (
        "Japanese",
        139,
        "人類社会のすべての構成員の固有の尊厳と平等で譲ることのできない権利とを承認することは、世界における自由、正義及び平和の基礎であるので、\n人権の無視及び軽侮が、人類の良心を踏みにじった野蛮行為をもたらし、言論及び信仰の自由が受けられ、恐怖及び欠乏のない世界の到来が、一般の人々の最高の願望として宣言されたので、",
    ),
    (
        "Georgian",
        155,
        "ვინაიდან ადამიანთა ოჯახის ყველა წევრისათვის დამახასიათებელი ღირსების და თანასწორი და განუყოფელი უფლებების აღიარება წარმოადგენს თავისუფლების, სამართლიანობის და საყოველთაო მშვიდობის საფუძველს; და\nვინაიდან, ადამიანის უფლებათა უგულებელყოფამ და აბუჩად აგდებამ გამოიწვია ბარბაროსული აქტები, რაც აღაშფოთებს კაცობრიობის სინდისს, და რომ ისეთი მსოფლიოს შექმნა, რომელშიც ადამიანებს ექნებათ სიტყვისა და რწმენის თავისუფლება, და რომელშიც ისინი იცხოვრებენ შიშისა და გაჭირვების გარეშე, გამოცხადებულია ადამიანთა მაღალ მისწრაფებად,",
    ),
];
